"""Facts about the data that a person need not repeat for the model: number of classes, shape of a row."""

from __future__ import annotations

from typing import Annotated, Any

import lightning.pytorch as pl

from lit_ft.core.checks import Range
from lit_ft.core.errors import ConfigError

FACTS = "data_facts"
NumClasses = Annotated[int, Range(low=2)]


def data_of(module: pl.LightningModule) -> Any:
    """The data module of the run that a module is in; None where there is none."""
    return getattr(module._trainer, "datamodule", None)


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
    data = data_of(module)
    value = getattr(data, name, None)
    if value is None:
        source = "no data module" if data is None else type(data).__name__
        raise ConfigError(name, None, f"a value: {source} does not say it")
    setattr(module, name, value)
    module.save_hyperparameters({name: value})
    return value
