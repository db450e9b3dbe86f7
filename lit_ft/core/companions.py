"""What cannot stand beside a callback in one trainer."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning, StochasticWeightAveraging, WeightAveraging

from lit_ft.core.errors import ConfigError


def refuse_other_weights(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Refuse callbacks of Lightning that average, prune or unfreeze parameters, beside one that decides what they are.

    They pair parameters by position with a copy made before masks were put on, look for them under names that change,
    or mix the weights that the callback promises exactly with earlier ones.
    """
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(other, (BaseFinetuning, ModelPruning, StochasticWeightAveraging, WeightAveraging)):
            allowed = "no callback that averages, prunes or unfreezes weights"
            raise ConfigError("trainer.callbacks", f"{_name(other)} beside {_name(callback)}", allowed)


def refuse_another(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Refuse a second callback of a class whose values would be logged under the same names."""
    if sum(type(other) is type(callback) for other in trainer.callbacks) > 1:  # type: ignore[attr-defined]
        raise ConfigError("trainer.callbacks", f"two of {_name(callback)}", "one")


def refuse_clipping_by_value(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Refuse it beside a callback that leaves steps without any gradient: torch fails where there is none to clip."""
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
        allowed = f"norm, beside {_name(callback)}, which takes steps without gradients"
        raise ConfigError("trainer.gradient_clip_algorithm", "value", allowed)


def _name(callback: pl.Callback) -> str:
    return type(callback).__name__
