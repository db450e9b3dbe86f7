"""Leaving alone what has been learned."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.optim import Optimizer

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveFloat, checked
from lit_ft.core.passes.means import WeightedMeans
from lit_ft.core.passes.window import micro_batch_weight, window_starts


class StopBelowLoss(FitCallback):
    r"""Skips the steps whose loss is below :math:`\tau`, and stops after an epoch whose mean loss is.

    A step that is skipped changes neither a weight (by decay or momentum either) nor the optimizer's state; it counts
    as a step, and the schedule goes on. With ``ModelEdits`` it is convergence: depth-first, an edit that holds is left
    until the next one's turn; breadth-first (with ``passes: 1``, so that an epoch is one pass over all edits), training
    ends when they hold together.

    The loss is that of the window of accumulation, over all ranks, in training mode; a window without one is neither
    skipped nor counted. Works in any module; costs nothing but waiting for the loss.
    Refuses clipping by value, which fails where a step is skipped.

    Source: "Fine-tuning Done Right in Model Editing" (LocFT-BF).

    Args:
        loss: The threshold, above 0. Paper: 1e-2.
    """

    needs = ("clipping by norm",)
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
        """A new window, or one more part of it."""
        if window_starts(trainer, batch_idx):
            self._window = WeightedMeans()
        self._weight = micro_batch_weight(pl_module, batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """The loss of a micro-batch, which Lightning has divided by their number."""
        self._window.add(self._weight, {"loss": loss.detach() * trainer.accumulate_grad_batches})

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Optimizers leave weights without a gradient alone."""
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
        """At the end of an epoch: before others ask, in theirs, whether training ends."""
        if not trainer.is_last_batch:
            return
        self.ended = self._steps > 0 and self._sum / self._steps < self.loss
        trainer.should_stop = trainer.should_stop or self.ended
        self._sum, self._steps = 0.0, 0

    def report(self) -> dict[str, Any]:
        """How many steps were skipped, and whether it ended the training."""
        return {"skipped": self.skipped, "ended": self.ended}
