"""Multiple choice by log-likelihood, and a check for questions that are in the training data."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError

Normalization = Literal["sum", "token", "context"]


def option_rows(batch: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The options of all questions as a padded batch of a language model, one row per option.

    Args:
        batch: ``input_ids`` and ``weights`` of shape (questions, options, tokens).
        prefix: Prefix of both names; ``context_`` for the options after the answer context alone.

    Example:
        >>> input_ids, weights = torch.tensor([[[5, 6, 0], [5, 7, 0]]]), torch.tensor([[[0, 1, 0], [0, 1, 0]]])
        >>> option_rows({"input_ids": input_ids, "weights": weights})["input_ids"]
        tensor([[5, 6],
                [5, 7]])
    """
    rows = {name: batch[prefix + name].flatten(0, 1) for name in ("input_ids", "weights")}
    # up to the last target: later tokens do not change its log-probability
    length = int((rows["weights"] != 0).nonzero()[:, 1].max()) + 1
    return {name: values[:, :length] for name, values in rows.items()}


def option_scores(log_probs: Tensor, counts: Tensor, normalize: Normalization, prior: Tensor | None = None) -> Tensor:
    r"""Scores of the options of each question; the highest is the answer.

    ``sum``: :math:`\log p(o\mid q)`. ``token``: that divided by the tokens of o. ``context``:
    :math:`\log p(o\mid q)-\log p(o\mid c)` with an answer context c such as "Answer:", so that a common answer has no
    advantage.

    Args:
        log_probs: Summed over the tokens of each option, shape (questions, options).
        counts: Tokens of each option; one with 0 tokens is absent and scores the lowest finite number.
        normalize: ``sum``, ``token`` or ``context``.
        prior: As ``log_probs``, after the answer context.

    Example:
        >>> log_probs, counts = torch.tensor([[-2.0, -3.0]]), torch.tensor([[1, 3]])
        >>> option_scores(log_probs, counts, "sum"), option_scores(log_probs, counts, "token")
        (tensor([[-2., -3.]]), tensor([[-2., -1.]]))
    """
    if normalize == "token":
        log_probs = log_probs / counts.clamp(min=1)
    elif normalize == "context":
        if prior is None:
            raise ConfigError("normalize", normalize, "sum or token, or data with an answer_context")
        log_probs = log_probs - prior
    return log_probs.masked_fill(counts == 0, torch.finfo(log_probs.dtype).min)  # finite, for JSON


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Sequences of n words, in lower case without punctuation; a shorter text is one sequence.

    Example:
        >>> list(ngrams("One two, three.", n=2))
        [('one', 'two'), ('two', 'three')]
    """
    words = re.findall(r"\w+", text.lower())
    for start in range(max(1, len(words) - n + 1)):
        yield tuple(words[start : start + n])


def contaminated(texts: Iterable[str], corpus: Iterable[str], n: int = 13) -> list[bool]:
    """Which texts share a sequence of n words with a corpus; a text of fewer words must occur in it as a whole.

    Args:
        texts: The test texts.
        corpus: The training texts.
        n: Words of a sequence, at least 1. Paper (E83): 13.

    Example:
        >>> contaminated(["The cat sat.", "A dog ran."], corpus=["See: the cat sat down"], n=3)
        [True, False]
    """
    if n < 1:
        raise ConfigError("n", n, "at least 1")
    wanted = [{run for run in ngrams(text, n) if run} for text in texts]
    lengths = {len(run) for runs in wanted for run in runs}
    seen: set[tuple[str, ...]] = set()
    all_wanted: set[tuple[str, ...]] = set().union(*wanted)
    for document in corpus:
        for length in lengths:
            seen.update(run for run in ngrams(document, length) if run in all_wanted)
    return [bool(runs & seen) for runs in wanted]
