"""The base class of callbacks that measure a network in training without an effect on it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.lifecycle import StepCounter, training_ends
from lit_ft.core.observing import TransferredBatches, own_loader
from lit_ft.core.parameters import refuse_lazy
from lit_ft.core.passes.evaluating import validating
from lit_ft.core.passes.second_pass import without_trace

When = Literal["start", "validation", "end"]


@dataclass(frozen=True)
class MeasuredRun:
    """The run that is measured.

    Args:
        trainer: The trainer of the run.
        module: The module that is trained, unwrapped.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> module, trainer = fit_foreign([], max_steps=3)
        >>> run = MeasuredRun(trainer, module)
        >>> run.step, len(list(run.loader("val_dataloader")))  # 44 rows in batches of 4
        (3, 11)
    """

    trainer: pl.Trainer
    module: Any

    @property
    def step(self) -> int:
        """Number of optimizer steps so far."""
        return self.trainer.global_step

    def loader(self, source: str, data: pl.LightningDataModule | None = None) -> TransferredBatches:
        """Batches of a new loader, such as ``val_dataloader``; see ``own_loader``."""
        return own_loader(self.trainer, self.module, source, data)

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast of a validation step."""
        return self.trainer.precision_plugin.val_step_context()


@contextmanager
def measuring(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[MeasuredRun]:
    """A context in evaluation mode, validation and without gradient, after which the run is as before it.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> module, trainer = fit_foreign([], max_steps=3)
        >>> with measuring(trainer, module) as run:
        ...     run.step, module.training, torch.is_grad_enabled()
        (3, False, False)
        >>> module.training
        True
    """
    with without_trace(trainer, module), validating(trainer), torch.no_grad():
        module.eval()
        yield MeasuredRun(trainer, module)


class Measurement(FitCallback):
    """Measures at the points named in ``when``, and every ``every_n_steps`` optimizer steps where that is a number.

    A subclass implements ``measure``. It is called without gradient and in evaluation mode; randomness, buffers,
    metrics, training modes and the log are afterwards as before. The values are kept in ``history``, by name, beside
    ``steps``, and logged under ``prefix``: at their step after a validation; in every row with ``every_n_steps``, as
    Lightning repeats the last value of a key in every row, so that a resumed run writes the same rows; and at the end.

    Checkpoints hold the attributes in ``remembers``: the whole history, or only ``_last``, the latest values.

    See also: :class:`~lit_ft.core.callback.FitCallback`, for requirements and state.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Evaluated(Measurement):
        ...     when = ("start", "end")
        ...     def measure(self, run):
        ...         return {"step": run.step, "dropout": run.module.training}
        >>> evaluated = Evaluated()
        >>> _ = fit_foreign([evaluated], max_steps=3)
        >>> evaluated.history
        {'step': [0, 3], 'dropout': [False, False]}
    """

    when: ClassVar[tuple[When, ...]] = ()
    """``start``: before the first step; ``validation``: after each; ``end``: after the last step, if not yet."""
    prefix: str = ""
    """Prefix of each name in the log."""
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
        self._count = StepCounter()

    def measure(self, run: MeasuredRun) -> Mapping[str, Any]:
        """Numbers by name, or by group and name."""
        raise NotImplementedError(f"{type(self).__name__} defines measure(run)")

    def prepare(self, run: MeasuredRun) -> None:
        """Prepare for measurements when training starts or resumes; the run is protected as in ``measure``."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare, and measure the start, unless the run was resumed."""
        self._count.begin(trainer)
        with measuring(trainer, pl_module) as run:
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
        if self._count.passed(trainer, self.every_n_steps) and trainer.global_step != self._measured_at:
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
        """Measure now; of a measurement that raises an error nothing is kept."""
        refuse_lazy(module)  # a measurement would make their weights, with other random numbers than training
        with measuring(trainer, module) as run:
            values = self.measure(run)
        self._measured_at = trainer.global_step
        self._last = _flat(values)
        self.steps.append(trainer.global_step)
        _append(self.history, values)

    def named(self) -> dict[str, float]:
        """The latest values by their names in the log."""
        return {f"{self.prefix}{name}": value for name, value in self._last.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.history:
            self._last = _flat(pick(self.history, -1))

    def report(self) -> dict[str, Any]:
        """The first and the last values, and the curves over the steps."""
        ends = {"start": 0, "end": -1} if self.steps else {}
        return {
            **{name: pick(self.history, place) for name, place in ends.items()},
            "steps": self.steps,
            "curves": self.history,
        }


def pick(curves: Mapping[str, Any], place: int) -> dict[str, Any]:
    """The values at one place of each curve.

    Example:
        >>> pick({"old": {"loss": [2.0, 1.0]}, "accuracy": [0.5, 0.75]}, -1)
        {'old': {'loss': 1.0}, 'accuracy': 0.75}
    """
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
