"""Steps in the direction of one gradient with the length of another."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveFloat, checked
from lit_ft.core.method import Method
from lit_ft.core.passes.window import micro_batch_weight, window_ends, window_starts
from lit_ft.flatness.perturbation import total_norm


class GradientGrafting(FitCallback):
    r"""Replaces the gradient of the accumulation window by :math:`n\, g / \|g\|`.

    n is the norm of the gradient of the window's first micro-batch at the same weights (iterative grafting: large-batch
    direction, small-batch length), or a fixed number (normalised gradient descent). This tests whether small batches
    help through the length of their steps. Penalties on micro-batches are part of both gradients.

    Acts before clipping, on the parameters of the optimizer. A zero gradient stays as it is, and so does, unless n is
    fixed, the gradient of a window whose first micro-batch has none. In a window of a single micro-batch (the last one
    of an epoch, for example) n is the norm of its own gradient; in a foreign module that undoes Lightning's division by
    the number of micro-batches of a full window. Under DDP, n is the mean over ranks of their micro-batches' norms.

    Requires automatic optimisation with one optimizer. Refuses an fp16 scaler (micro-batches' gradients are scaled).
    To act on SAM's gradient, it must stand after ``SAM`` in the list of callbacks.

    Cost: two norms a step. Logs ``gradient_grafting/norm`` (of g) and ``gradient_grafting/length`` (n), when a logger
    writes.

    Source: Z. Novack, S. Kaur, T. Marwah, S. Garg, Z. Lipton, "Disentangling the Mechanisms Behind Implicit
    Regularization in SGD", 2022, arXiv 2211.15853. Deviation: norms recorded in another run (external grafting) are
    left out.

    Args:
        length: n, above 0 (paper: 0.24 to 0.43); None takes the norm of the first micro-batch.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([GradientGrafting(length=0.5)], max_steps=1)
        >>> before, after = (trainer.callback_metrics[f"gradient_grafting/{name}"] for name in ("norm", "length"))
        >>> before > 1, after
        (tensor(True), tensor(0.5000))
    """

    needs = ("one of its class", "automatic optimization", "gradients without a scale")

    def __init__(self, length: PositiveFloat | None = None) -> None:
        super().__init__()
        checked(locals())
        self.length = length
        self._first: Any = None
        self._norm: Tensor | None = None
        self._alone = False

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Drop an unfinished window."""
        self._first, self._norm, self._alone = None, None, False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note whether this is the first micro-batch of several; without a loss, no other one replaces it."""
        if self.length is not None or trainer.accumulate_grad_batches == 1:
            return
        starts, ends = window_starts(trainer, batch_idx), window_ends(trainer, batch_idx)
        self._first, self._alone = batch if starts and not ends else None, starts and ends
        self._norm = None if starts else self._norm

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the gradient of the first micro-batch, before others are added to it."""
        if self._first is None:
            return
        weight = micro_batch_weight(pl_module, self._first) if isinstance(pl_module, Method) else 1.0
        share = weight / trainer.accumulate_grad_batches
        norm = total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        norm = norm / share if share > 0 else torch.zeros_like(norm)
        self._norm = trainer.strategy.reduce(norm, reduce_op="mean")  # type: ignore[assignment]
        self._first = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Give the gradient its new length."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm(gradients)
        length = self._norm if self.length is None else norm.new_tensor(self.length)
        if self._alone and not isinstance(pl_module, Method):  # ranks' gradients are one by now, so there is one norm
            length = norm * trainer.accumulate_grad_batches
        self._norm = None
        if length is None or not norm > 0 or not length > 0:
            return
        torch._foreach_mul_(gradients, (length / norm).to(gradients[0]))
        self.log_step(trainer, pl_module, {"gradient_grafting/norm": norm, "gradient_grafting/length": length})
