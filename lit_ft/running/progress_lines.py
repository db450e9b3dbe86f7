"""Where a long fit is, when nobody watches a bar."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lit_ft.running.duration import duration

FIRST, EVERY = 10.0, 60.0  # seconds


class ProgressLines(Callback):
    """Prints a line after ten seconds of training and then every minute: step, time left, loss, the monitored value.

    Args:
        monitor: Logged key that is shown beside the loss; None shows those of validation.
        clock: Gives the time in seconds.
        to: Where lines go; None is standard error.

    Example:
        >>> from itertools import count
        >>> from lit_ft.testing import fit_foreign
        >>> minutes = count(0, 50)
        >>> lines = ProgressLines(clock=lambda: next(minutes), to=sys.stdout)
        >>> _ = fit_foreign([lines], max_steps=3)
        fit: step 1 of 3, 1 min 40 s left, loss ...
        fit: step 3 of 3, 0 s left, loss ...
    """

    def __init__(
        self, monitor: str | None = None, clock: Callable[[], float] = time.monotonic, to: TextIO | None = None
    ) -> None:
        self.monitor, self.clock, self.to = monitor, clock, to
        self._began = self._due = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began, self._first_step = self.clock(), trainer.global_step
        self._due = self._began + FIRST

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line when it is time for one."""
        now = self.clock()
        if now < self._due or not trainer.is_global_zero:
            return
        self._due = now + EVERY
        print(self._line(trainer, now), file=self.to or sys.stderr, flush=True)

    def _line(self, trainer: pl.Trainer, now: float) -> str:
        step, last = trainer.global_step, trainer.estimated_stepping_batches
        made = step - self._first_step
        parts = [f"step {step}"]
        if last not in (-1, float("inf")):
            parts[0] += f" of {int(last)}"
            if made > 0:
                parts.append(f"{duration((now - self._began) / made * max(0, last - step))} left")
        values = trainer.callback_metrics
        loss = next((key for key in ("train/loss", "train_loss", "loss") if key in values), None)
        keys = [key for key in values if key.startswith("val/")] if self.monitor is None else [self.monitor]
        parts += [f"loss {float(values[loss]):.4g}"] if loss else []
        parts += [f"{key} {float(values[key]):.4g}" for key in keys if key in values]
        return f"fit: {', '.join(parts)}"
