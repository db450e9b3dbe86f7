"""Attention in float32 on a CPU, where torch's kernel for half precision is slow on its way back."""

from typing import Any

import torch
from torch import Tensor


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
    """Attention ``sdpa`` of ``transformers``, in float32 on a CPU where its inputs are in half precision.

    torch's kernel takes 5.5 times as long on its way back in bfloat16 as in float32, and is no faster on its way
    forward (torch 2.13, 256 and 1,024 tokens). Passes without a gradient take the same way, so that both agree.

    Example:
        >>> query, key, value = torch.randn(3, 1, 2, 4, 8, dtype=torch.bfloat16)  # rows, heads, tokens, width
        >>> attention(torch.nn.Identity(), query, key, value, None)[0].dtype
        torch.bfloat16
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    one_token = query.shape[2] == 1  # of an answer being written: nothing flows back, and all keys would be copied
    if device != "cpu" or dtype.itemsize >= 4 or one_token:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    wide: dict[str, Any] = {
        name: given.float() if isinstance(given, Tensor) and given.is_floating_point() else given
        for name, given in {"attention_mask": attention_mask, **options}.items()
    }
    with torch.autocast(device, enabled=False):
        found, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), **wide)
    return found.to(dtype), weights


def take_over() -> None:
    """Let networks of ``transformers`` in this process take :func:`attention` where they would take ``sdpa``."""
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", attention)
