"""The outputs of a causal language model, as hidden states before its head where that is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lit_ft.core.adapters import has_prompt, perturbed
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.tokens.readout import Readout

_SPLIT: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def readout(network: nn.Module, batch: Mapping[str, Tensor]) -> Readout:
    """Run a causal language model up to its head.

    The head is left to ``lit_ft.tokens.readout.Readout`` if it is one linear map of the last hidden states, which is
    checked once for each network; otherwise the network computes the logits. A network whose tokens see later ones is
    refused: it would see its targets.

    A batch is padded on the right (``input_ids``, ``attention_mask``) or packed (``input_ids``, ``position_ids``). The
    mask is not passed on: with causal attention, no token sees padding on its right, and without a mask attention takes
    its fast path. Packed documents stay apart only without a mask and without a cache (``packing`` in
    :mod:`lit_ft.tokens.packing` checks it).

    Args:
        network: A causal language model of ``transformers``, or one with an adapter.
        batch: ``input_ids``, and ``position_ids`` if it is packed.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1}))
        >>> readout(network, {"input_ids": torch.tensor([[1, 2, 3]])}).states.shape
        torch.Size([1, 3, 4])
    """
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    if _SPLIT.get(network) is None:
        check_causal(network, batch["input_ids"])
        _SPLIT[network] = _can_split(network, batch["input_ids"])
    if not _SPLIT[network]:
        # the tokens of a learned prompt come before the batch, and so do their logits
        return Readout(network(**inputs).logits[:, -batch["input_ids"].shape[1] :])
    body, head = _body_and_head(network)  # type: ignore[misc]
    return Readout(body(**inputs).last_hidden_state, head.weight, head.bias)


@torch.no_grad()
def check_causal(network: nn.Module, input_ids: Tensor) -> None:
    """Refuse a network in which the last token changes the logits before it, such as an encoder.

    An adapter is asked as it will be once it is trained: at its start it changes nothing.
    """
    some = input_ids[:1, :8]
    if some.shape[1] < 2:
        return
    with evaluating(network), perturbed(network):
        whole = network(input_ids=some, use_cache=False).logits[:, :-1].float()
        without = network(input_ids=some[:, :-1], use_cache=False).logits.float()
    single = next(network.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(some.device.type)
    if (whole - without).abs().max() > (1e-3 if single else 0.1) * without.abs().max():
        allowed = "a causal language model; here a token sees those behind it, as in an encoder, and so what is learned"
        raise ConfigError("network", type(network).__name__, allowed)


def _body_and_head(network: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """The network without its head, and its head; None if they cannot be separated."""
    inner: Any = network
    if hasattr(network, "peft_config"):
        if has_prompt(network):
            return None  # the adapter puts tokens in front of the batch
        inner = network.get_base_model()  # type: ignore[operator]
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    body = getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    # the exact type: an adapter around the head is a subclass, and sharded weights are whole only inside forward
    if type(head) is not nn.Linear or not isinstance(body, nn.Module) or type(head.weight) is not nn.Parameter:
        return None
    return body, head


@torch.no_grad()
def _can_split(network: nn.Module, input_ids: Tensor) -> bool:
    """Whether head(body(x)) are the logits of the network (some scale or cap them)."""
    parts = _body_and_head(network)
    if parts is None:
        return False
    body, head = parts
    some = input_ids[:1, :8]
    with evaluating(network), perturbed(network):  # some adapters act outside of the body
        logits = network(input_ids=some, use_cache=False).logits
        ours = head(body(input_ids=some, use_cache=False).last_hidden_state)
    same = ours.shape == logits.shape and torch.allclose(ours.float(), logits.float(), rtol=1e-2, atol=1e-3)
    if not same:
        rank_zero_info(f"The head of {type(network).__name__} is more than a linear map: whole logits are computed")
    return same
