"""What a run watches is there, is known before a step is spent, and is watched in the right direction."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.measurement import Measurement
from lit_ft.running.direction import direction, of_metric


class Monitored(FitCallback):
    """Holds callbacks and schedules that watch a logged key to the keys that there are.

    An unknown key is refused after the validation before the first step, where it is of validation and nothing else
    could log it later; else when it is missing for the first time. An ``EarlyStopping`` that watches a key of
    validation looks after validations, so that a run that ends before its first one ends as any other, and says so. A
    ``mode`` that takes the worst value for the best is refused.

    Args:
        monitor: Key that the whole run watches, if any; an error names it by this name.
        made: Callbacks that nobody wrote, made for a key that is named elsewhere; an ``EarlyStopping`` among them takes
            its mode from the metric.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _ = fit_foreign([Monitored(), EarlyStopping("val/los")], max_steps=50)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: EarlyStopping.monitor: given 'val/los'; ... (did you mean 'val/loss'?)
    """

    def __init__(self, monitor: str | None = None, made: Sequence[pl.Callback] = ()) -> None:
        super().__init__()
        self.monitor, self.made = monitor, list(made)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle directions, before states are restored, and let what watches a key of validation look after it."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        for callback in trainer.early_stopping_callbacks:
            if callback._check_on_train_epoch_end is None and callback.monitor.startswith("val/"):
                callback._check_on_train_epoch_end = False
            if callback in self.made:
                with suppress(ConfigError):  # the key may be a mistake, of which more can be said later
                    _turn(callback, direction("monitor", callback.monitor, pl_module))
        for callback in _callbacks(trainer):
            if callback not in (self, *self.made) and isinstance(key := getattr(callback, "monitor", None), str):
                _refuse_other_way(callback, key, getattr(callback, "mode", None), pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the schedules, which have been made, and for keys of which nothing says what is best."""
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor:
                _refuse_other_way(config.scheduler, config.monitor, getattr(config.scheduler, "mode", None), pl_module)
        for callback in _callbacks(trainer):
            open_mode = callback in self.made if isinstance(callback, EarlyStopping) else vars(callback).get("mode", "")
            if callback is not self and open_mode in (None, True) and (key := getattr(callback, "monitor", None)):
                direction("monitor", key, pl_module)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a key of validation that no validation logs."""
        if any(type(one).__module__.split(".")[0] not in KNOWN for one in _callbacks(trainer)):
            return  # it may log after later validations
        later = [one.prefix for one in _callbacks(trainer) if isinstance(one, Measurement)]
        for owner, key in self._watched(trainer):
            if key.startswith("val/") and not any(key.startswith(prefix) for prefix in later):
                _refuse_unknown(trainer, owner, key)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a key that is missing although a validation is over."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            for owner, key in self._watched(trainer):
                if key.startswith("val/"):
                    _refuse_unknown(trainer, owner, key)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what was never measured."""
        for key in dict.fromkeys(key for _, key in self._watched(trainer)):
            if key not in trainer.callback_metrics:
                rank_zero_warn(f"{key} is watched, and was never logged: the run ended before its first validation")

    def _watched(self, trainer: pl.Trainer) -> Iterator[tuple[str, str]]:
        """The class that watches a key, and the key; of what the whole run watches, no class."""
        for callback in _callbacks(trainer):
            key = getattr(callback, "monitor", None)
            if isinstance(key, str) and getattr(callback, "strict", True) and callback not in (self, *self.made):
                yield type(callback).__name__, key
        if self.monitor is not None:
            yield "", self.monitor
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor and config.strict:
                yield type(config.scheduler).__name__, config.monitor


KNOWN = ("lit_ft", "lightning", "pytorch_lightning")  # packages whose callbacks log in each validation, if at all


def _callbacks(trainer: pl.Trainer) -> list[Any]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _refuse_unknown(trainer: pl.Trainer, owner: str, key: str) -> None:
    known = sorted(trainer.callback_metrics)
    if key not in known:
        raise _refused(owner, "monitor", key, f"a logged key: {', '.join(known)}{nearest(key, known)}")


def _refuse_other_way(watches: Any, key: str, mode: str | None, module: pl.LightningModule) -> None:
    better = of_metric(key, module)
    if better is not None and mode in ("min", "max") and mode != better:
        best = "lowest" if better == "min" else "highest"
        raise _refused(type(watches).__name__, "mode", mode, f"{better}, as {key} is best when it is {best}")


def _refused(owner: str, argument: str, given: str, allowed: str) -> ConfigError:
    """An error about an argument of another class."""
    error = ConfigError(f"{owner}.{argument}".lstrip("."), given, allowed)
    error.owner = owner or None
    return error


def _turn(stopping: EarlyStopping, mode: str) -> None:
    """Let an ``EarlyStopping`` that has seen nothing yet wait for the lowest or the highest value."""
    if stopping.mode != mode and not torch.isfinite(stopping.best_score):
        stopping.min_delta, stopping.best_score, stopping.mode = -stopping.min_delta, -stopping.best_score, mode
