"""The base class of callbacks that measure a network while it is trained, so that training does not notice."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.lifecycle import training_ends
from lit_ft.core.observing import Handed, own_loader
from lit_ft.core.passes.second_pass import silent

When = Literal["start", "validation", "end"]


@dataclass(frozen=True)
class MeasuredRun:
    """What a measurement looks at.

    Args:
        trainer: The trainer of the run.
        module: The module that is trained, unwrapped.
    """

    trainer: pl.Trainer
    module: Any

    @property
    def step(self) -> int:
        """Optimizer steps that were made."""
        return self.trainer.global_step

    def loader(self, source: str, data: pl.LightningDataModule | None = None) -> Handed:
        """Batches of a loader that the trainer does not use, such as ``val_dataloader``; see ``own_loader``."""
        return own_loader(self.trainer, self.module, source, data)

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast of a validation step."""
        return self.trainer.precision_plugin.val_step_context()


@contextmanager
def looking(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[MeasuredRun]:
    """Inside, a module in evaluation mode and without gradient; afterwards the run is as it was, see ``silent``."""
    with silent(trainer, module), torch.no_grad():
        module.eval()
        yield MeasuredRun(trainer, module)


class Measurement(FitCallback):
    """Measures at the points named in ``when``, and every ``every_n_steps`` optimizer steps where that is a number.

    A subclass implements ``measure``. It is called without gradient and in evaluation mode; randomness, buffers,
    metrics, training modes and the log are afterwards as before. The values are kept in ``history``, by name, beside
    ``steps``, and logged under ``prefix``: at their step after a validation; in every row with ``every_n_steps``, as
    Lightning repeats the last value of a key in every row, so that a resumed run writes the same rows; and at the end.

    The checkpoint holds what ``remembers`` names: the whole history, or ``_last``, the values measured last.
    """

    when: ClassVar[tuple[When, ...]] = ()
    """``start``: before the first step; ``validation``: after each one; ``end``: after the last step, if not yet."""
    prefix: str = ""
    """What stands before each name in the log."""
    on_bar: ClassVar[bool] = False
    """Whether values after a validation are shown in the progress bar."""
    remembers: ClassVar[tuple[str, ...]] = ("steps", "history")
    forgets: ClassVar[tuple[str, ...]] = ("steps", "history", "_last", "_measured_at")
    every_n_steps: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.history: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        self._measured_at = -1

    def measure(self, run: MeasuredRun) -> Mapping[str, Any]:
        """Numbers by name, or numbers by name for each of several groups."""
        raise NotImplementedError(f"{type(self).__name__} defines measure(run)")

    def prepare(self, run: MeasuredRun) -> None:
        """Get what measurements need when training starts, also when it is resumed; under the same protection."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare, and measure the start, if that was not done before a resume."""
        with looking(trainer, pl_module) as run:
            self.prepare(run)
        if "start" in self.when and not self.steps:
            self.take(trainer, pl_module)
        self._measured_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after every n-th optimizer step, and log the newest values in every row."""
        if self.every_n_steps is None:
            return
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._measured_at:
            self.take(trainer, pl_module)
        pl_module.log_dict(self.named(), on_step=True, on_epoch=False, batch_size=1)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after a validation."""
        if "validation" in self.when and not trainer.sanity_checking:
            self.take(trainer, pl_module)
            pl_module.log_dict(self.named(), prog_bar=self.on_bar)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after the last step, in time for the last checkpoint and the report."""
        if "end" in self.when and training_ends(trainer):
            if trainer.global_step != self._measured_at:
                self.take(trainer, pl_module)
            if self.logs_end():
                pl_module.log_dict(self.named(), batch_size=1)

    def logs_end(self) -> bool:
        """Whether the values at the end are logged."""
        return True

    def take(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Measure now; nothing is kept of a measurement that fails."""
        with looking(trainer, module) as run:
            values = self.measure(run)
        self._measured_at = trainer.global_step
        self._last = _flat(values)
        self.steps.append(trainer.global_step)
        _append(self.history, values)

    def named(self) -> dict[str, float]:
        """The values measured last under their names in the log."""
        return {f"{self.prefix}{name}": value for name, value in self._last.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.history:
            self._last = _flat(pick(self.history, -1))

    def report(self) -> dict[str, Any]:
        """The first and the last values, and all of them over the steps."""
        ends = {"start": 0, "end": -1} if self.steps else {}
        return {
            **{name: pick(self.history, place) for name, place in ends.items()},
            "steps": self.steps,
            "curves": self.history,
        }


def pick(curves: Mapping[str, Any], place: int) -> dict[str, Any]:
    """The values at one place of each curve."""
    return {name: pick(c, place) if isinstance(c, Mapping) else c[place] for name, c in curves.items()}


def _append(curves: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _append(curves.setdefault(name, {}), value)
        else:
            curves.setdefault(name, []).append(value)


def _flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of groups under ``group/name``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        found |= {f"{name}/{n}": v for n, v in _flat(value).items()} if isinstance(value, Mapping) else {name: value}
    return found
