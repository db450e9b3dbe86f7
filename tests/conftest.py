"""Every test runs on one thread, offline, with a cache of its own choosing, and in the folder it is given."""

import functools
import importlib.metadata
import logging
import os
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import huggingface_hub.constants
import pytest
import torch
from lightning.fabric.utilities import registry
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric

from lit_ft.running import processes

huggingface_hub.constants.HF_HUB_OFFLINE = True  # it was read before: a warning filter makes pytest import lightning
torch.set_num_threads(1)
processes.PRELOAD.insert(0, "lit_ft.command.everything")  # every process that a test starts is forked from one
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")

# what Lightning does again and again, a fifth of the time of a small fit: it reads the list of installed packages for
# each trainer, and with each logged value copies all that it noted of it to the device on which that is
registry.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[attr-defined]
_moved = _ResultMetric.to


def _to(noted: _ResultMetric, device: Any = None, *args: Any, **kwargs: Any) -> _ResultMetric:
    here = getattr(vars(noted).get("value"), "device", None)
    return noted if device is not None and here == torch.device(device) else _moved(noted, device, *args, **kwargs)


_ResultMetric.to = _to  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the run folder of another one, nor the seed, which Lightning sets again in every rank.

    Nor does one wait for the disk: a checkpoint that outlives a power cut is of no use to it.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.delenv("LIT_FT_RUN_DIR", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--offline", action="store_true", help="leave out tests that need packaged weights or data")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--offline"):
        return
    left_out = [item for item in items if "real" in item.keywords]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if "real" not in item.keywords]
    print(f"offline: {len(left_out)} tests that need packaged weights or data are left out")
