"""From the hidden states of tokens to one vector per text."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError, nearest

Pooling = Literal["mean", "cls", "last", "max"]
POOLINGS = get_args(Pooling)


def check_pooling(pooling: str) -> str:
    """The name of a pooling; an unknown one is refused."""
    if pooling not in POOLINGS:
        raise ConfigError("pooling", pooling, ", ".join(POOLINGS) + nearest(pooling, POOLINGS))
    return pooling


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool hidden states over the tokens where ``mask`` is not 0; padding may be on either side.

    Echo embeddings are ``mean`` or ``last`` with a mask that is 1 on the second occurrence of the text only
    (J. M. Springer et al., Repetition Improves Language Model Embeddings, 2024, arXiv:2402.15449).

    Args:
        hidden: Shape (texts, tokens, width).
        mask: Shape (texts, tokens); each text needs at least one token (collators make sure of it).
        pooling: ``mean``, ``cls`` (first such token), ``last`` (last such token) or ``max``.

    Returns:
        Shape (texts, width), in the type of ``hidden``.

    Example:
        >>> hidden, mask = torch.tensor([[[1.0], [5.0], [9.0]]]), torch.tensor([[1, 1, 0]])
        >>> {pooling: pool(hidden, mask, pooling).item() for pooling in POOLINGS}
        {'mean': 3.0, 'cls': 1.0, 'last': 5.0, 'max': 5.0}
    """
    real = mask.bool().unsqueeze(-1)
    if pooling == "mean":
        return hidden.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1).to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(~real, torch.finfo(hidden.dtype).min).amax(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        chosen = positions.masked_fill(mask == 0, mask.shape[1]).amin(1).clamp(max=mask.shape[1] - 1)
    elif pooling == "last":
        chosen = positions.masked_fill(mask == 0, -1).amax(1).clamp(min=0)
    else:
        raise ConfigError("pooling", pooling, ", ".join(POOLINGS))
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen]
