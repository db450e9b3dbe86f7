"""Skipping the steps of rows that are learned."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.optim import Optimizer

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveFloat, checked
from lit_ft.core.passes.means import WeightedMeans
from lit_ft.core.passes.window import micro_batch_weight, window_starts


class StopBelowLoss(FitCallback):
    r"""Skips the steps whose loss is below :math:`\tau`, and stops after an epoch whose mean loss is below it.

    A skipped step changes no weight (not even by decay or momentum) and not the state of the optimizer; it counts as a
    step, and the schedule goes on. With ``ModelEdits`` this is the test of convergence: depth-first, an edit whose loss
    is below the threshold is not trained further; breadth-first (with ``passes: 1``, so that an epoch is one pass over
    all edits), training ends when the mean loss over all edits is below the threshold.

    The loss is that of the accumulation window, over all ranks, in training mode; a window without a loss is neither
    skipped nor counted. Works in any module; the only cost is waiting for the loss.
    Refuses clipping by value, which fails if a step is skipped.

    Source: "Fine-tuning Done Right in Model Editing" (LocFT-BF).

    Args:
        loss: The threshold :math:`\tau`, above 0. Paper: 1e-2.

    Example:
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> stop = StopBelowLoss(loss=100.0)
        >>> module, trainer = fit_foreign([stop], module=ForeignModule(seed=0), max_epochs=2)
        >>> stop.report(), trainer.global_step  # 11 steps an epoch
        ({'skipped': 11, 'ended': True}, 11)
    """

    needs = ("clipping by norm",)
    ends = True
    remembers = ("skipped", "ended", "_sum", "_steps")

    def __init__(self, loss: PositiveFloat = 1.0e-2) -> None:
        super().__init__()
        checked(locals())
        self.loss = loss
        self._window = WeightedMeans()
        self._weight: Tensor | float = 1.0
        self.skipped, self.ended = 0, False
        self._sum, self._steps = 0.0, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start a new window, or continue one."""
        if window_starts(trainer, batch_idx):
            self._window = WeightedMeans()
        self._weight = micro_batch_weight(pl_module, batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add the loss of a micro-batch, which Lightning has divided by the number of micro-batches."""
        self._window.add(self._weight, {"loss": loss.detach() * trainer.accumulate_grad_batches})

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop the gradients if the loss is low: optimizers skip parameters without one."""
        weight, means = self._window.total(lambda total: trainer.strategy.reduce(total, reduce_op="sum"))  # type: ignore
        if not weight > 0:  # no micro-batch of this window has a loss
            return
        loss = float(means["loss"])
        self._sum, self._steps = self._sum + loss, self._steps + 1
        if loss < self.loss:
            self.skipped += 1
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide after the last batch of an epoch, before other callbacks ask whether training ends."""
        if not trainer.is_last_batch:
            return
        self.ended = self._steps > 0 and self._sum / self._steps < self.loss
        trainer.should_stop = trainer.should_stop or self.ended
        self._sum, self._steps = 0.0, 0

    def report(self) -> dict[str, Any]:
        """Number of skipped steps, and whether the callback ended training."""
        return {"skipped": self.skipped, "ended": self.ended}
