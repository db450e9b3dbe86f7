"""The tokenizer of a data module."""

from typing import Any

import lightning.pytorch as pl

from lit_ft.core.errors import ConfigError


def tokenizer_of(data: pl.LightningDataModule) -> Any:
    """The tokenizer of the model that is trained; outside a Trainer ``data.tokenizer``.

    Args:
        data: The data module.

    Raises:
        ConfigError: There is no tokenizer.
    """
    module = getattr(data.trainer, "lightning_module", None)
    found = getattr(data if module is None else module, "tokenizer", None)
    if found is None:
        else_ = "or data.tokenizer = model.tokenizer" if module is None else f"unlike {type(module).__name__}"
        raise ConfigError("data", type(data).__name__, f"a model with a tokenizer, {else_}")
    return found
