"""Networks that consist of features and a linear head."""

from typing import Any

from torch import nn

from lit_ft.core.errors import ConfigError


def linear_head(network: nn.Module) -> nn.Linear:
    """The linear head of one of our networks; a network without ``features()`` or a linear ``head`` is refused.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> linear_head(MLP((4,), 2, width=8))
        Linear(in_features=8, out_features=2, bias=True)
    """
    head: Any = getattr(network, "head", None)
    if not callable(getattr(network, "features", None)) or not isinstance(head, nn.Linear):
        raise ConfigError("network", type(network).__name__, "config: {model_type: mlp | cnn, ...}")
    return head
