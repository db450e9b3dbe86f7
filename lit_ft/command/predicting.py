"""``lit-ft predict``: where predictions go, which rows they are of, and a text of the command line."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError
from lit_ft.running.predictions import file_of


@contextmanager
def predicting(request: Request, folder: Path, data: Any) -> Iterator[Path]:
    """Where predictions are written to; those of texts that nothing names a file for are shown and not kept.

    Args:
        request: What was asked for.
        folder: The run folder.
        data: The data module, which is told of texts.
    """
    if not request.texts:
        yield Path(request.to or folder)
        return
    if not hasattr(data, "ask"):
        allowed = "a data module of single texts, such as LabelledText and Instructions"
        raise ConfigError("--text", f"a text for {type(data).__name__}", allowed)
    data.ask(list(request.texts))
    if request.to is not None:
        yield Path(request.to)
        return
    with tempfile.TemporaryDirectory() as aside:
        yield Path(aside)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(file_of(aside).read_text(encoding="utf-8"), end="")


class SaysSplit(Callback):
    """Says which rows are predicted, once the data are set up.

    Args:
        request: What was asked for.
    """

    def __init__(self, request: Request) -> None:
        self.texts = bool(request.texts)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line."""
        if trainer.is_global_zero and not self.texts:
            _say_split(trainer.datamodule)  # type: ignore[attr-defined]


def _say_split(data: Any) -> None:
    split = getattr(data, "predicted", None)
    if split is None:
        return
    of = getattr(data, "predict_path", None) if split == "new" else getattr(getattr(data, "source", data), "path", None)
    hint = "" if split == "new" or not hasattr(data, "predict_path") else "; --data.predict_path FILE takes new ones"
    print(f"predict: the {split} rows{f' of {of}' if of else ''}{hint}", flush=True)
