"""Facts about the data that a person need not repeat for the model: number of classes, shape of a row."""

from __future__ import annotations

from typing import Annotated, Any

import lightning.pytorch as pl

from lit_ft.core.checks import Range
from lit_ft.core.errors import ConfigError

FACTS = "data_facts"
NumClasses = Annotated[int, Range(low=2)]


def data_fact(module: pl.LightningModule, name: str) -> Any:
    """The attribute ``name`` of the module; where it is None, that of the data module, which is then remembered.

    It joins the module's hyper-parameters, so that its checkpoint can be loaded without the data.

    Args:
        module: Asks.
        name: Of the attribute on both sides.
    """
    value = getattr(module, name)
    if value is not None:
        return value
    data = getattr(module._trainer, "datamodule", None)
    value = getattr(data, name, None)
    if value is None:
        source = "no data module" if data is None else type(data).__name__
        raise ConfigError(name, None, f"a value: {source} does not say it")
    setattr(module, name, value)
    module.save_hyperparameters({name: value})
    return value


def mark_facts(checkpoint: dict[str, Any], *names: str) -> None:
    """Note in a checkpoint which of its hyper-parameters may come from the data, and not from a person."""
    checkpoint[FACTS] = list(names)


def recall_facts(module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Take facts that the module does not know yet from a checkpoint's hyper-parameters."""
    for name in checkpoint.get(FACTS, ()):
        if getattr(module, name) is None:
            setattr(module, name, checkpoint["hyper_parameters"].get(name))
