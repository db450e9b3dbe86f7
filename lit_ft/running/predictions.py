"""``predictions.jsonl``: each row on disk as soon as it is predicted, in the order of the table once all are there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.hyperparameters import differences
from lit_ft.core.method import Method
from lit_ft.running.files import write_text
from lit_ft.running.json_rows import json_line, plain

WHOLE = "predictions.jsonl"


def file_of(to: str | Path) -> Path:
    """The file of predictions that ``--to`` names, itself or as a folder.

    Example:
        >>> file_of("runs/it").as_posix(), file_of("new/rows.jsonl").as_posix()
        ('runs/it/predictions.jsonl', 'new/rows.jsonl')
        >>> file_of("rows.csv")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --to: given 'rows.csv'; allowed: a folder, or a file that ends in .jsonl
    """
    path = Path(to)
    if path.suffix == ".jsonl" and not path.is_dir():
        return path
    if path.is_file() or path.suffix in (".csv", ".tsv", ".json", ".txt", ".parquet"):
        raise ConfigError("--to", str(to), "a folder, or a file that ends in .jsonl")
    return path / WHOLE


def _note(file: Path) -> Path:
    """What the predictions are made of."""
    return file.with_suffix(".json")


def _parts(file: Path) -> Path:
    """Where the rows lie until all are there."""
    return file.with_name(f".{file.stem}")


def begin(to: Path, made_of: Mapping[str, Any]) -> bool:
    """Make a place ready for predictions; returns whether all of them are there already.

    ``predictions.json`` notes what they are made of. Predictions that were begun with the same go on where they stood.

    Args:
        to: Folder or file that they are written to, see :func:`file_of`.
        made_of: Everything that they depend on, as plain data.

    Raises:
        ConfigError: The folder has predictions of something else.

    Example:
        >>> begin(Path("made"), {"seed": 0}), begin(Path("made"), {"seed": 0})
        (False, False)
        >>> begin(Path("made"), {"seed": 1})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --to: given 'made'; allowed: a place without predictions ... (seed: 0 then, ...
    """
    whole = file_of(to)
    note, wanted = _note(whole), json.loads(json.dumps(plain(made_of)))
    begun = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    changed = differences(begun, wanted) if begun is not None else {}
    if changed or (begun is None and whole.exists()):
        said = [f"{key}: {then!r:.60} then, {now!r:.60} now" for key, (then, now) in list(changed.items())[:3]]
        of = f" ({'; '.join(said)}{'; ...' * (len(changed) > 3)})" if said else ""
        allowed = f"a place without predictions of another model, other data or settings{of}; --to names one"
        raise ConfigError("--to", str(to), allowed)
    if whole.exists():
        return True
    if begun is None:
        shutil.rmtree(_parts(whole), ignore_errors=True)
        write_text(note, json.dumps(wanted, indent=2, ensure_ascii=False))
    return False


class Predictions(Callback):
    """Writes what ``predict_step`` gives for each row to ``predictions.jsonl``, and beside it where the row is from.

    A line is ``{"row": 7, ...}``, with the number of the row in its table from 1, or what the ``place_of(number)`` of
    the data module says; the rest is what the method's ``prediction_rows(batch, predictions)`` says. Each process
    writes its rows aside as they come. When all are there, the first one puts them into one file, in their order. Rows
    that an earlier start has written are not predicted again.

    Args:
        to: Folder or file that they are written to, see :func:`file_of`.

    See also: :func:`begin`, which makes the place ready.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> model = ImageClassifier({"config": {"model_type": "mlp"}}, num_classes=2, input_shape=[16])
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        >>> trainer = pl.Trainer(callbacks=[Predictions("run")], **quiet)
        >>> _ = trainer.predict(model, GaussianClusters(rows=10, classes=2), return_predictions=False)
        >>> row = json.loads(Path("run/predictions.jsonl").read_text().splitlines()[0])
        >>> sorted(row), sorted(row["probabilities"])
        (['expected', 'label', 'probabilities', 'row'], ['0', '1'])
    """

    def __init__(self, to: str | Path) -> None:
        self.file = file_of(to)
        self._done: set[tuple[int, ...]] = set()
        self._open: TextIO | None = None
        self._own: Callable[..., Any] | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what is there, and open a file of this process."""
        parts = _parts(self.file)
        parts.mkdir(parents=True, exist_ok=True)
        self._done = {key for key, _ in _written(parts)}
        trainer.strategy.barrier()  # nobody writes while others read
        self._open = (parts / f"{time.time_ns()}-{trainer.global_rank}.jsonl").open("w", encoding="utf-8")
        step, self._own = pl_module.predict_step, vars(pl_module).get("predict_step")

        def unless_done(batch: Any, batch_idx: int, *more: Any, **named: Any) -> Any:
            dataloader_idx = named.get("dataloader_idx", more[0] if more else 0)
            keys = self._keys(trainer, batch, batch_idx, dataloader_idx)
            return [] if keys and self._done.issuperset(keys) else step(batch, batch_idx, *more, **named)

        pl_module.predict_step = unless_done  # type: ignore[method-assign]

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch."""
        keys = self._keys(trainer, batch, batch_idx, dataloader_idx)
        if outputs is None and isinstance(pl_module, Method):
            raise ConfigError("model", type(pl_module).__name__, "a method that predicts something for each row")
        if outputs is None or self._open is None or (keys and self._done.issuperset(keys)):
            return
        named = getattr(pl_module, "prediction_rows", lambda batch, outputs: outputs)(batch, outputs)
        place = getattr(data_of(pl_module), "place_of", None)
        rows = _rows(named, len(keys))
        if not keys:  # in the order of batches, and numbered when all are there
            number = batch_idx * trainer.world_size + trainer.global_rank
            keys = [(dataloader_idx, number, i) for i in range(len(rows))]
        for key, row in zip(keys, rows, strict=True):
            where = {} if len(key) != 2 else {"row": key[1] + 1} if place is None else place(key[1])
            self._open.write(json_line([key, {**where, **{k: v for k, v in row.items() if k not in where}}]))
        self._open.flush()
        os.fsync(self._open.fileno())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the rows of all processes into one file."""
        self._close(pl_module)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            rows = sorted(dict(_written(_parts(self.file))).items())
            lines = [
                json_line(row if len(key) == 2 else {"row": number, **row})
                for number, (key, row) in enumerate(rows, start=1)
            ]
            write_text(self.file, "".join(lines))
            shutil.rmtree(_parts(self.file))
        trainer.strategy.barrier()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was; what is written stays."""
        self._close(pl_module)

    def _close(self, module: pl.LightningModule) -> None:
        if self._open is not None:
            self._open.close()
            vars(module).pop("predict_step")
            if self._own:
                module.predict_step = self._own  # type: ignore[method-assign]
        self._open = self._own = None

    def _keys(self, trainer: pl.Trainer, batch: Any, batch_idx: int, dataloader_idx: int) -> list[tuple[int, ...]]:
        """Loader and number of each row of a batch; none where the loader does not tell."""
        loaders = trainer.predict_dataloaders
        loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
        planned = getattr(getattr(loader, "sampler", None), "numbers", None)
        if callable(planned):
            return [(dataloader_idx, number) for number in planned(batch_idx)]
        seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", [])
        if batch_idx < len(seen):
            return [(dataloader_idx, number) for number in seen[batch_idx]]
        return []


def _written(parts: Path) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """The rows in all files of a folder; a last line that was cut off is none."""
    for file in sorted(parts.glob("*.jsonl")):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                key, row = json.loads(line)
                yield tuple(key), row


def _rows(outputs: Any, count: int) -> list[dict[str, Any]]:
    """What a ``predict_step`` gave, row by row."""
    if isinstance(outputs, Mapping):
        columns = {str(name): _listed(values) for name, values in outputs.items()}
        if all(len(values) == (count or len(values)) for values in columns.values()):
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    found = _listed(outputs)
    if count and len(found) != count and all(len(_listed(part)) == count for part in found):
        found = [list(parts) for parts in zip(*map(_listed, found), strict=True)]  # several tensors
    if count and len(found) != count:
        allowed = f"one for each of the {count} rows of a batch"
        raise ConfigError("predict_step", f"{len(found)} predictions", allowed)
    return [dict(row) if isinstance(row, Mapping) else {"prediction": row} for row in found]


def _listed(values: Any) -> Sequence[Any]:
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    return values if isinstance(values, (list, tuple)) else [values]
