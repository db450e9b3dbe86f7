"""The end of a run whose loss or weights are no numbers any more."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import checked
from lit_ft.core.errors import Diverged
from lit_ft.core.passes.window import window_ends

EVERY = 50  # steps between two looks where nothing is logged
ELSE = "NotFinite with then: go on trains on"


class NotFinite(FitCallback):
    """Ends a run whose loss or trained weights are not finite (NaN or infinite), with one line and exit status 1.

    Such a run ends with the status ``diverged`` in its report; a study takes it as finished, without a number. Each run
    of the command has this callback. The loss of every micro-batch is looked at on its device, and the answer is read
    at steps that are logged, at the end of training, and before Lightning's own checkpoints are written: no step waits
    for the device. Under an fp16 scaler, which leaves out steps that overflow, only the weights are looked at.

    Args:
        then: ``stop``, or ``go on`` to the end. Checkpoints of ``RunCheckpoint`` stay those that were finite either
            way.

    See also: :class:`~lit_ft.callbacks.RunCheckpoint`, which replaces no finite checkpoint by another.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Diverges(pl.Callback):
        ...     def on_train_batch_end(self, trainer, module, *batch):
        ...         if trainer.global_step == 3:
        ...             torch.nn.init.constant_(next(module.parameters()), float("nan"))
        >>> _ = fit_foreign([NotFinite(), Diverges()])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.Diverged: the loss is not finite since step 4; NotFinite with then: go on trains on
    """

    needs = ("one of its class",)
    forgets = ("diverged", "_since", "_loss")

    def __init__(self, then: Literal["stop", "go on"] = "stop") -> None:
        super().__init__()
        checked(locals())
        self.then = then
        self.diverged = False
        self._since: Tensor | None = None  # the first step with such a loss, on the device; infinite before it
        self._loss: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss; read the answer where the step is logged."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.is_floating_point():
            self._loss = loss.detach().sum()
            if not _scaled(trainer):
                now = torch.where(self._loss.isfinite(), math.inf, float(_step(trainer, batch_idx)))
                self._since = now if self._since is None else torch.minimum(self._since, now)
        every = trainer.log_every_n_steps or EVERY  # type: ignore[attr-defined]
        if window_ends(trainer, batch_idx) and trainer.global_step % every == 0:
            self._stop_by_loss(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the loss and at the weights that the last step left."""
        self._stop_by_loss(trainer)
        last = self._loss is not None and not _scaled(trainer) and not bool(self._loss.isfinite())
        self.diverged = _anyone(trainer, last) or not finite_weights(trainer)
        if self.diverged and self.then == "stop":
            raise Diverged(f"the weights are not finite after step {trainer.global_step}; {ELSE}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the callbacks of Lightning from replacing a finite checkpoint."""
        if self.then == "stop" and trainer.training and not _finite(pl_module):
            raise Diverged(f"the weights are not finite at step {trainer.global_step}; {ELSE}")

    def _stop_by_loss(self, trainer: pl.Trainer) -> None:
        since = math.inf if self._since is None else float(self._since)
        if self.then == "stop" and _anyone(trainer, since < math.inf):
            when = f"since step {int(since)}" if since < math.inf else "on another rank"
            raise Diverged(f"the loss is not finite {when}; {ELSE}")


def finite_weights(trainer: pl.Trainer) -> bool:
    """Whether all trained weights are finite, on every rank; this waits for the device."""
    return not _anyone(trainer, not _finite(trainer.lightning_module))


def _finite(module: nn.Module) -> bool:
    flags = [p.detach().isfinite().all() for p in module.parameters() if p.requires_grad and p.is_floating_point()]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def may_save(trainer: pl.Trainer) -> bool:
    """Whether the weights may take the place of those that were saved before.

    Raises:
        Diverged: They are not finite, and nobody said that the run shall go on.
    """
    if finite_weights(trainer):
        return True
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, NotFinite) and callback.then == "go on" for callback in callbacks):
        rank_zero_warn("the weights are not finite any more: they are not saved, and what was saved before stays")
        return False
    raise Diverged(f"the weights are not finite at step {trainer.global_step}; they are not saved; {ELSE}")


def _anyone(trainer: pl.Trainer, decision: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _scaled(trainer: pl.Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _step(trainer: pl.Trainer, batch_idx: int) -> int:
    """The optimizer step that a micro-batch belongs to, after the batch."""
    return trainer.global_step + (not window_ends(trainer, batch_idx))
