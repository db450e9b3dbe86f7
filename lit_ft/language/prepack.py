"""Prompts of mixed lengths packed for the prefill, so that no time is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.tokens.bins import best_fit, pack_positions


@dataclass
class Prefill:
    """The state of a batch of prompts before the first new token.

    Args:
        cache: Keys and values of ``transformers``, one row per prompt, padded on the left.
        logits: Logits for the next token of each prompt, shape (prompts, vocabulary).
        mask: Which positions of the cache are real, shape (prompts, longest).
        lengths: Tokens of each prompt, shape (prompts,).
        processed: Tokens that went through the network, padding included.
    """

    cache: Any
    logits: Tensor
    mask: Tensor
    lengths: Tensor
    processed: int


@torch.no_grad()
def prepacked_prefill(network: Any, prompts: Sequence[Sequence[int]]) -> Prefill:
    """Run prompts through a causal language model in packed rows, then give each its own row of the cache.

    Prompts are put best fit into rows as long as the longest one, with positions that restart and a mask that lets a
    token see its own prompt only; up to rounding, this equals running one prompt after another. Tokens processed fall
    from ``prompts x longest`` to about the sum of the lengths; for prompts of equal length nothing is gained.

    Args:
        network: A causal language model of ``transformers`` with full attention in every layer; sliding windows and
            recurrent states are refused.
        prompts: Token ids, at least one in each.

    Source: S. Zhao et al., Prepacking: A Simple Method for Fast Prefilling and Increased Throughput in Large Language
    Models, 2024, arXiv:2404.09529. Deviation: the whole prompt is packed (the reference leaves out its last token, and
    fails on prompts of one token), best fit instead of an integer program, and no model is patched.

    See also: :func:`generate_prepacked`, :func:`padded_prefill`.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1})).eval()
        >>> prompts = [[1, 2, 3, 4], [5, 6], [7, 8]]
        >>> prepacked_prefill(network, prompts).processed, padded_prefill(network, prompts).processed
        (8, 12)
    """
    from transformers import DynamicCache

    _refuse_partial_attention(network)
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ConfigError("prompts", lengths, "prompts of at least one token")
    device, longest = next(network.parameters()).device, max(lengths)
    rows = best_fit(lengths, longest)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions, owner = torch.zeros_like(ids), torch.full_like(ids, -1)
    place: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        tokens = torch.tensor([token for prompt in row for token in prompts[prompt]])
        ids[number, : len(tokens)] = tokens
        positions[number, : len(tokens)] = pack_positions([lengths[prompt] for prompt in row])
        start = 0
        for prompt in row:
            place[prompt] = (number, start)
            owner[number, start : start + lengths[prompt]] = prompt
            start += lengths[prompt]
    hidden_mask = _additive_mask(owner, network.dtype).to(device)
    cache = DynamicCache()
    logits = network(
        input_ids=ids.to(device), position_ids=positions.to(device), attention_mask=hidden_mask, past_key_values=cache,
        use_cache=True, logits_to_keep=_ends(place, lengths).to(device),
    ).logits  # fmt: skip
    kept = _ends(place, lengths).tolist()
    last = torch.stack([logits[place[i][0], kept.index(place[i][1] + lengths[i] - 1)] for i in range(len(prompts))])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for prompt, length in enumerate(lengths):
        mask[prompt, longest - length :] = 1
    return Prefill(_unpacked(cache, place, lengths), last, mask, torch.tensor(lengths, device=device), ids.numel())


@torch.no_grad()
def padded_prefill(network: Any, prompts: Sequence[Sequence[int]]) -> Prefill:
    """The usual prefill: every prompt in a row of its own, padded on the left to the longest one.

    Args:
        network: A causal language model of ``transformers``.
        prompts: Token ids, at least one in each.
    """
    device, longest = next(network.parameters()).device, max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    places = torch.arange(longest, device=device) - (longest - lengths)[:, None]
    mask, positions = (places >= 0).long(), places.clamp(min=0)
    done = network(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
    )  # fmt: skip
    return Prefill(done.past_key_values, done.logits[:, -1], mask, lengths, ids.numel())


def _ends(place: dict[int, tuple[int, int]], lengths: Sequence[int]) -> Tensor:
    """Columns in which some prompt ends: logits are computed for these only."""
    return torch.tensor(sorted({start + lengths[prompt] - 1 for prompt, (_, start) in place.items()}))


def _additive_mask(owner: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may attend, the lowest number elsewhere; padding attends to itself."""
    same = owner[:, :, None] == owner[:, None, :]
    same &= (owner >= 0)[:, :, None]
    allowed = torch.ones_like(same).tril() & same | torch.eye(owner.shape[1], dtype=torch.bool)
    # a mask of bools would be added to the logits by the eager kernel
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _unpacked(packed: Any, place: dict[int, tuple[int, int]], lengths: Sequence[int]) -> Any:
    from transformers import DynamicCache

    longest, cache = max(lengths), DynamicCache()
    for index, layer in enumerate(packed.layers):
        pair = []
        for source in (layer.keys, layer.values):
            rows = source.new_zeros(len(lengths), source.shape[1], longest, source.shape[3])
            for prompt, length in enumerate(lengths):
                row, start = place[prompt]
                rows[prompt, :, longest - length :] = source[row, :, start : start + length]
            pair.append(rows)
        cache.update(*pair, index)
    return cache


def _refuse_partial_attention(network: nn.Module) -> None:
    config: Any = network.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "is_encoder_decoder", False):
        allowed = f"a decoder with full attention in every layer, not {', '.join(sorted(kinds))}"
        raise ConfigError("network", type(network).__name__, allowed)


@torch.no_grad()
def generate_prepacked(
    network: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, end: int | None = None
) -> list[list[int]]:
    """Greedy continuations of prompts after a prepacked prefill; equal to decoding one prompt after another.

    Args:
        network: As in :func:`prepacked_prefill`, in eval mode.
        prompts: Token ids.
        max_new_tokens: Most new tokens for each prompt.
        end: Token that ends an answer; it is part of the answer.

    See also: :func:`~lit_ft.language.greedy.written`, which needs no cache.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.language.greedy import written
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1})).eval()
        >>> prompts = [[1, 2, 3, 4], [5, 6], [7, 8]]
        >>> generate_prepacked(network, prompts, max_new_tokens=3) == written(network, prompts, tokens=3)
        True
    """
    state = prepacked_prefill(network, prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    mask, positions, logits = state.mask, state.lengths, state.logits
    for step in range(max_new_tokens):
        chosen = logits.argmax(-1)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            if end is None or not answer or answer[-1] != end:
                answer.append(token)
        if step + 1 == max_new_tokens or all(end is not None and answer[-1] == end for answer in answers):
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        logits = network(
            input_ids=chosen[:, None], attention_mask=mask, position_ids=positions[:, None],
            past_key_values=state.cache, use_cache=True,
        ).logits[:, -1]  # fmt: skip
        positions = positions + 1
    return answers
