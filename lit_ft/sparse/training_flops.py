"""Count the floating-point operations of a run."""

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from torch.optim import LBFGS
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.lifecycle import passed
from lit_ft.sparse.flops import Flops


class TrainingFlops(FitCallback):
    r"""Adds up the floating-point operations of all training steps, and those that zero weights would not need.

    It counts the forward and backward pass of ``training_step`` as it runs, see :class:`lit_ft.sparse.flops.Flops`;
    not validation, the optimizer, or passes that other callbacks add (callbacks that run the model before the step must
    stand before this one). If a step makes several passes (manual optimisation, LBFGS), all of its computation counts,
    including matrix products of the optimizer and passes after the step by callbacks that stand before this one. With
    ``GradientMask(outside="zero")`` the second number is the cost of sparse training on hardware that skips zeros; on
    present CPUs and GPUs, dense kernels take the time of the first.

    Logs ``training_flops/all`` and ``training_flops/nonzero``, operations since the start of the run over all
    processes, with every step. Training stays bit-identical. Cost: some microseconds for each operation of torch, and
    one pass over the weights every ``every_n_steps`` steps. Resumed runs go on counting. Operations that
    ``torch.compile`` fuses are not counted: count without it.

    Args:
        every_n_steps: How often zeros are counted, in optimizer steps, at least 1.

    Source: V. Thangarasa et al., SPDF: Sparse Pre-training and Dense Fine-tuning for Large Language Models, 2023,
    arXiv:2303.10464. Deviation: operations are counted as they run instead of from a formula for GPT.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([TrainingFlops()], max_steps=1)
        >>> trainer.callback_metrics["training_flops/all"]  # 4 rows, maps of 6 x 12 and 12 x 3: 864 forward, 1152 back
        tensor(2016.)
    """

    remembers = ("_counted_at",)
    forgets = ("_flops",)

    def __init__(self, every_n_steps: PositiveInt = 10) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps = every_n_steps
        self._pass = ExitStack()
        self._several = False
        self._flops = Flops()
        self._counted_at: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether a step has more than one pass."""
        several = any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers)
        self._several = several or not pl_module.automatic_optimization

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start to count."""
        if self._counted_at is None or passed(self.every_n_steps, self._counted_at, trainer.global_step):
            self._flops.count_zeros(pl_module)
            self._counted_at = trainer.global_step
        self._pass.enter_context(self._flops.counting(pl_module))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop counting after the pass: other callbacks may run the model now."""
        if not self._several:
            self._pass.close()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the sums so far."""
        self._pass.close()
        values = {"all": float(self._flops.total), "nonzero": self._flops.nonzero}
        for name, value in values.items():
            pl_module.log(
                f"training_flops/{name}", value, on_epoch=False, on_step=True, sync_dist=True, reduce_fx="sum"
            )

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._pass.close()

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, and the shares of non-zero weights."""
        found = {name: getattr(self._flops, name) for name in ("total", "nonzero", "shares")}
        return {**found, **super().state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for name in ("total", "nonzero", "shares"):
            setattr(self._flops, name, state_dict[name])
