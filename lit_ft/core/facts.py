"""Facts about the data that need not be repeated for the model: number of classes, shape of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import lightning.pytorch as pl

from lit_ft.core.checks import Range
from lit_ft.core.errors import ConfigError

FACTS = "data_facts"
NumClasses = Annotated[int, Range(low=2)]


def data_of(module: pl.LightningModule) -> Any:
    """The data module of the trainer that a module is attached to; None without one.

    Example:
        >>> from lit_ft.data import NoisyLinear
        >>> from lit_ft.methods import Regression
        >>> model, data = Regression({"config": {"model_type": "mlp"}}), NoisyLinear()
        >>> trainer = pl.Trainer(fast_dev_run=1, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, data)
        >>> data_of(model) is data
        True
    """
    return getattr(module._trainer, "datamodule", None)


def restore_facts(module: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Take from a checkpoint what would else come from the data of its run.

    Example:
        >>> from lit_ft.methods import Regression
        >>> model = Regression({"config": {"model_type": "mlp"}})
        >>> restore_facts(model, {FACTS: ["input_shape"], "hyper_parameters": {"input_shape": [8]}})
        >>> model.input_shape
        [8]
    """
    for name in checkpoint.get(FACTS, ()):
        if getattr(module, name) is None:
            setattr(module, name, checkpoint["hyper_parameters"].get(name))


def data_fact(module: pl.LightningModule, name: str) -> Any:
    """The attribute ``name`` of the module; where it is None, that of the data module.

    A value from the data module is set on the module and added to its hyper-parameters, so that a checkpoint can be
    loaded without the data.

    Args:
        module: The method.
        name: Name of the attribute in both the method and the data module.

    Raises:
        ConfigError: Neither has a value.

    Example:
        >>> from lit_ft.data import NoisyLinear
        >>> from lit_ft.methods import Regression
        >>> model = Regression({"config": {"model_type": "mlp"}})
        >>> trainer = pl.Trainer(fast_dev_run=1, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, NoisyLinear(features=8))
        >>> data_fact(model, "input_shape"), model.hparams["input_shape"]
        ((8,), (8,))
    """
    value = getattr(module, name)
    if value is not None:
        return value
    data = data_of(module)
    value = getattr(data, name, None)
    if value is None:
        without = "there is no data module" if data is None else f"{type(data).__name__} has none"
        raise ConfigError(name, None, f"a value, as {without} to take it from")
    setattr(module, name, value)
    module.save_hyperparameters({name: value})
    return value
