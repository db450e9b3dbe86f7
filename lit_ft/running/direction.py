"""Whether a logged value is better when it is lower or when it is higher."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError

LOWER = ("loss", "perplexity", "error", "nll", "mse", "mae", "rmse", "barrier")
HIGHER = ("accuracy", "acc", "f1", "auroc", "precision", "recall", "match", "reward", "correlation")


Direction = Literal["min", "max"]


def direction(argument: str, key: str, module: nn.Module) -> Direction:
    """How a logged key is best, by what its metric says; a loss, and what has no metric, by its name.

    Args:
        argument: What named the key, for the error.
        key: As it is logged (``val/accuracy``).
        module: The module that logs it.

    Raises:
        ConfigError: Neither the metric nor the name tells.

    Example:
        >>> from torchmetrics import MeanSquaredError
        >>> module = nn.Module()
        >>> module.new_metrics = lambda: {"distance": MeanSquaredError()}
        >>> [direction("monitor", key, module) for key in ("val/loss", "val/distance", "val/triplet_accuracy")]
        ['min', 'min', 'max']
        >>> direction("monitor", "val/temperature", module)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: monitor: given 'val/temperature'; allowed: a key of which ... RunCheckpoint ...
    """
    if (better := of_metric(key, module)) is not None:
        return better
    words = re.split(r"[^a-z0-9]+", key.lower())[::-1]  # the last word says what it is
    for word in words:
        if word in LOWER or word in HIGHER:
            return "min" if word in LOWER else "max"
    allowed = "a key of which a metric or the name says what is best, or RunCheckpoint and EarlyStopping with a mode"
    raise ConfigError(argument, key, allowed)


def of_metric(key: str, module: Any) -> Direction | None:
    """What the metric of a key says of itself, and of the loss; None where there is no such metric, or it does not say.

    Example:
        >>> of_metric("val/loss", nn.Linear(2, 1)), of_metric("val/accuracy", nn.Linear(2, 1))
        ('min', None)
    """
    name = key.rpartition("/")[2]
    if name == "loss":
        return "min"
    metrics = module.new_metrics() if callable(getattr(module, "new_metrics", None)) else {}
    answers = getattr(module, "answers", None)  # those of generated answers
    metric = {**metrics, **(answers if isinstance(answers, Mapping) else {})}.get(name)
    higher = metric.higher_is_better if isinstance(metric, Metric) else None
    return None if higher is None else "max" if higher else "min"
