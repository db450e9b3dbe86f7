"""What makes the small runs of tests quick, here and in the processes that they start, whose server imports this.

Drawing a page of figures takes longer than a short run: figures are made everywhere, and drawn where ``DRAWS`` is set
in the environment, for tests with the mark ``draws``. No test waits for the disk: a checkpoint that outlives a power
cut is of no use to it. And Lightning reads the list of installed packages again for each trainer, and with each logged
value copies all that it noted of it to the device on which that already is: a fifth of the time of a small fit.
"""

import functools
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import registry
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from matplotlib.figure import Figure

DRAWS = "LIT_FT_TESTS_DRAW"
_draw, _moved = Figure.savefig, _ResultMetric.to


def _drawn(figure: Figure, file: Any, *args: Any, **settings: Any) -> None:
    if os.environ.get(DRAWS):
        _draw(figure, file, *args, **settings)
    elif hasattr(file, "write"):
        file.write("<svg></svg>" if settings.get("format") == "svg" else b"")
    else:
        Path(file).touch()


def _to(noted: _ResultMetric, device: Any = None, *args: Any, **kwargs: Any) -> _ResultMetric:
    here = getattr(vars(noted).get("value"), "device", None)
    return noted if device is not None and here == torch.device(device) else _moved(noted, device, *args, **kwargs)


Figure.savefig = _drawn  # type: ignore[method-assign]
_ResultMetric.to = _to  # type: ignore[method-assign]
registry.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[attr-defined]
os.fsync = lambda handle: None  # type: ignore[assignment]
