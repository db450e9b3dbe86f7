"""What callbacks of Lightning did in ``on_train_epoch_start``, which a run resumed inside of an epoch does not call.

Also what they lose in every resume: which parameters were unfrozen, and the rate of stochastic weight averaging.
"""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ProgressBar,
    StochasticWeightAveraging,
    TQDMProgressBar,
)

from lit_ft.core.callback import FitCallback
from lit_ft.core.lightning import either, overridden
from lit_ft.running.saying import say

AGAIN = (GradientAccumulationScheduler, TQDMProgressBar)
"""Their hook depends on nothing but the epoch."""
KEPT = (BaseFinetuning, StochasticWeightAveraging, LearningRateMonitor, ProgressBar, FitCallback)
"""They have their state, or only show something."""


def noted(checkpoint: dict[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """What a checkpoint has to hold beside the states of the callbacks, before its counters are marked.

    Args:
        checkpoint: Taken between two batches.
        trainer: The trainer.

    Returns:
        Plain data: the step that is logged next, and with a callback that unfreezes, what is trained.
    """
    found = {"stepped": checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]}
    if _of(trainer, BaseFinetuning):
        module = trainer.lightning_module
        found["trained"] = [name for name, one in module.named_parameters() if one.requires_grad]
        found["tracking"] = {
            name: one.track_running_stats for name, one in module.named_modules() if hasattr(one, "track_running_stats")
        }
    return found


class EpochStarts:
    """Puts back what hooks of the start of an epoch had set; for the rest it says what is not called again.

    Args:
        saved: From :func:`noted`; empty for a checkpoint of an earlier version.
    """

    def __init__(self, saved: dict[str, Any]) -> None:
        self._saved = saved
        self._inside = False
        self._groups: list[list[dict[str, Any]]] = []

    def before_training(self, trainer: pl.Trainer) -> None:
        """Unfreeze what was unfrozen, and keep the rates; for ``on_train_start``."""
        loop = trainer.fit_loop
        self._inside = loop.restarted_mid_epoch
        loop.epoch_loop._batches_that_stepped = self._stepped(trainer)
        self._groups = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]
        for callback in _of(trainer, BaseFinetuning):
            if "trained" not in self._saved:
                say(f"{type(callback).__name__}: the checkpoint does not tell what was unfrozen; it stays frozen")
        if "trained" in self._saved and _of(trainer, BaseFinetuning):
            trained, tracking = {*self._saved["trained"]}, self._saved["tracking"]
            for name, parameter in trainer.lightning_module.named_parameters():
                parameter.requires_grad_(name in trained)
            for name, module in trainer.lightning_module.named_modules():
                if name in tracking:
                    module.track_running_stats = tracking[name]  # type: ignore[assignment]
        if self._inside:
            self._tell(trainer)

    def before_first_batch(self, trainer: pl.Trainer) -> None:
        """Call the hooks that can be called again; when the first batch has begun.

        Not earlier: in ``on_train_start`` the accumulation of a scheduler is refused as one of the trainer.
        """
        module = trainer.lightning_module
        if self._inside:
            for callback in _of(trainer, *AGAIN):
                callback.on_train_epoch_start(trainer, module)
        for callback in _of(trainer, StochasticWeightAveraging):
            if callback._scheduler_state is None:  # type: ignore[attr-defined]
                continue
            if self._inside:
                buffers = {name: one.clone() for name, one in module.named_buffers()}
                callback.on_train_epoch_start(trainer, module)
                for name, one in module.named_buffers():  # those of batch norm are reset in its last epoch
                    one.copy_(buffers[name])
            for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
                for group, kept in zip(optimizer.param_groups, groups, strict=True):
                    group.update(kept)  # the schedule of the averaging makes a step when it is built
        trainer.fit_loop.epoch_loop._batches_that_stepped = self._stepped(trainer)

    def _stepped(self, trainer: pl.Trainer) -> int:
        """Lightning counts it by the accumulation at hand, which may be that of another epoch."""
        return self._saved.get("stepped", trainer.fit_loop.epoch_loop._batches_that_stepped)

    def _tell(self, trainer: pl.Trainer) -> None:
        owners = [*trainer.callbacks, trainer.lightning_module]  # type: ignore[attr-defined]
        for owner in owners:
            if isinstance(owner, either(*AGAIN, *KEPT)) or not _acts(owner):
                continue
            say(
                f"{type(owner).__name__}: on_train_epoch_start was called for epoch {trainer.current_epoch} before the "
                "checkpoint and is not called again; what it set is kept only where a state holds it"
            )


def _of(trainer: pl.Trainer, *kinds: type[pl.Callback]) -> list[pl.Callback]:
    return [one for one in trainer.callbacks if isinstance(one, either(*kinds))]  # type: ignore[attr-defined]


def _acts(owner: Any) -> bool:
    return "on_train_epoch_start" in vars(owner) or overridden("on_train_epoch_start", owner)
