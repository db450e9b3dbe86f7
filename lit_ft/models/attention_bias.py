"""Zero biases for attention without biases, so that offsets can be folded into them."""

import copy
from typing import Any

import torch
from torch import nn

from lit_ft.core.errors import ConfigError


@torch.no_grad()
def add_attention_bias(network: Any) -> Any:
    """Add biases of zero, which change no output, and set ``attention_bias`` in the configuration, which exports keep.

    Raises:
        ConfigError: The configuration has no ``attention_bias``, or it adds more than biases of linear maps.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> config = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> network = add_attention_bias(causal_lm(Network(config=config)))
        >>> network.model.layers[0].self_attn.q_proj.bias.data
        tensor([0., 0., 0., 0., 0., 0., 0., 0.])
    """
    kind = type(network).__name__
    if not hasattr(network.config, "attention_bias"):
        raise ConfigError("network.attention_bias", True, f"false: the configuration of {kind} has no such key")
    if network.config.attention_bias:
        return network
    config = copy.deepcopy(network.config)
    config.attention_bias = True
    with torch.device("meta"):
        wanted = type(network)(config)
    before = dict(network.named_parameters())
    for name, parameter in wanted.named_parameters():
        if name in before:
            continue
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if leaf != "bias" or not isinstance(owner, nn.Linear):
            raise ConfigError("network.attention_bias", True, f"false: in {kind} it adds {name}")
        owner.bias = nn.Parameter(owner.weight.new_zeros(parameter.shape))
    network.config.attention_bias = True
    return network
