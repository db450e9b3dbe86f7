"""Every test runs on one thread, offline, with a cache of its own choosing, and in the folder it is given."""

import logging
import os
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import huggingface_hub.constants
import pytest
import torch

from lit_ft.running import processes
from tests import quick

huggingface_hub.constants.HF_HUB_OFFLINE = True  # it was read before: a warning filter makes pytest import lightning
torch.set_num_threads(1)
# every process that a test starts is forked from one, which imports these
processes.PRELOAD[:0] = ["lit_ft.command.everything", "tests.quick", "sklearn.datasets"]
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test sees the run folder of another one, nor the seed, which Lightning sets again in every rank."""
    monkeypatch.delenv("LIT_FT_RUN_DIR", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setenv(quick.DRAWS, "1" if "draws" in request.keywords else "")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--offline", action="store_true", help="leave out tests that need packaged weights or data")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--offline"):
        return
    left_out = [item for item in items if "real" in item.keywords]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if "real" not in item.keywords]
    print(f"offline: {len(left_out)} tests that need packaged weights or data are left out")
