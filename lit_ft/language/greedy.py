"""Greedy decoding with a causal language model, and a check whether it would give a text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def written(
    network: nn.Module, prompts: Sequence[Sequence[int]], tokens: int, end: int | None = None
) -> list[list[int]]:
    """The continuation of each prompt by greedy decoding: at most ``tokens`` tokens, none after ``end``.

    Args:
        network: A causal language model of ``transformers``.
        prompts: Token ids, at least one each.
        tokens: Longest continuation. Cost: one forward pass per token, without a cache.
        end: The token that ends a continuation and is part of it; None for no such token.

    See also: :func:`~lit_ft.language.prepack.generate_prepacked`, which uses a cache.

    Example:
        >>> from types import SimpleNamespace
        >>> class CountUp(nn.Embedding):
        ...     def forward(self, input_ids, attention_mask):
        ...         return SimpleNamespace(logits=nn.functional.one_hot((input_ids + 1) % 10, 10))
        >>> written(CountUp(10, 1), prompts=[[1], [5, 6]], tokens=3, end=8)
        [[2, 3, 4], [7, 8]]
    """
    rows = [list(prompt) for prompt in prompts]
    growing = list(range(len(rows)))
    for _ in range(tokens):
        best = _best(network, rows)
        for i in growing:
            rows[i].append(int(best[i, len(rows[i]) - 1]))
        growing = [i for i in growing if rows[i][-1] != end]
        if not growing:
            break
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def would_write(network: nn.Module, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[bool]:
    """Whether the greedy continuation of each prompt would begin with the text, in one forward pass.

    It does if and only if every token of the text is the most likely one, given the prompt and the text before it.

    Example:
        >>> from types import SimpleNamespace
        >>> class CountUp(nn.Embedding):
        ...     def forward(self, input_ids, attention_mask):
        ...         return SimpleNamespace(logits=nn.functional.one_hot((input_ids + 1) % 10, 10))
        >>> would_write(CountUp(10, 1), prompts=[[1], [1]], texts=[[2, 3], [2, 4]])
        [True, False]
    """
    rows = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    best = _best(network, rows).tolist()
    pairs = zip(best, rows, prompts, strict=True)
    return [likeliest[len(prompt) - 1 : len(row) - 1] == row[len(prompt) :] for likeliest, row, prompt in pairs]


def _best(network: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The most likely next token after each token, shape (rows, tokens); padded on the right."""
    device = next(network.parameters()).device
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return network(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits.argmax(-1)
