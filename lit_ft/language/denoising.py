"""Texts with spans taken out, which a causal language model learns to put back: span corruption and UL2's mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_ft.core.checks import OpenUnitInterval, PositiveFloat, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import Plan
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment, encode_all, special_fields
from lit_ft.tokens.token_data import TokenData, encode_filled
from lit_ft.tokens.token_table import collate_padded


@dataclass(frozen=True)
class Denoiser:
    """One way to take spans out of a text.

    Args:
        kind: ``R`` (regular) and ``X`` (extreme) take spans from anywhere, ``S`` (sequential) takes the end.
        density: Share of the tokens that is taken out, in (0, 1); for ``S`` on average.
        mean_span: Average length of a span in tokens, at least 1; ``S`` has one span.
        weight: How often it is drawn beside the others.
    """

    kind: Literal["R", "S", "X"]
    density: OpenUnitInterval
    mean_span: Annotated[float, Range(low=1)] = 3.0
    weight: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        """Refuse what takes out nothing or everything."""
        checked({"self": self, **vars(self)})

    def spans(self, length: int, draw: np.random.Generator) -> list[tuple[int, int]]:
        """Spans (start, end) of a text of ``length`` tokens, at least 2; between two of them a token stays."""
        if self.kind == "S":
            longest = min(length - 1, max(1, round(2 * self.density * length) - 1))
            return [(length - int(draw.integers(1, longest + 1)), length)]
        taken = min(length - 1, max(1, round(self.density * length)))
        number = min(taken, length - taken, max(1, round(taken / self.mean_span)))
        # one part more than spans, of which the last may be empty: a single span would else always be the end
        kept, gone = _parts(length - taken + 1, number + 1, draw)[:-1], _parts(taken, number, draw)
        ends = np.cumsum([k + g for k, g in zip(kept, gone, strict=True)]).tolist()
        return [(end - g, end) for end, g in zip(ends, gone, strict=True)]


UL2 = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)
"""The seven denoisers of UL2, drawn equally often."""


def _parts(total: int, number: int, draw: np.random.Generator) -> list[int]:
    """``total`` cut at random into ``number`` parts of at least 1, each way equally likely."""
    cuts = np.sort(draw.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff([0, *cuts.tolist(), total]).tolist()


def corrupt(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """The text with a sentinel in place of each span, and the spans, each behind its sentinel.

    Args:
        ids: Tokens of the text.
        spans: In their order, none inside another.
        sentinels: Tokens of the sentinel of each span; at least as many as spans.
    """
    inputs, targets, place = [], [], 0
    for (start, end), sentinel in zip(spans, sentinels, strict=False):
        inputs += [*ids[place:start], *sentinel]
        targets += [*sentinel, *ids[start:end]]
        place = end
    return inputs + list(ids[place:]), targets


class MixtureOfDenoisers(TokenData):
    r"""Span corruption for causal language models: ``[mode] inputs targets``, of which the targets are learned.

    Each text is corrupted by a denoiser that is drawn for it: anew in every epoch for training, as a function of (seed,
    epoch, number of the batch); once, as a function of (seed, row), for evaluation. The model can then fill gaps, and
    continue a text in mode ``[S]``.

    Sentinels and modes are plain text that the tokenizer cuts as it likes, so that no embedding has to be added; a
    tokenizer with tokens such as ``<extra_id_0>`` has one token for each. Attention is causal in the inputs too.
    ``max_length`` (paper: 512) and ``tokens_per_batch`` are about texts before they are corrupted, which makes them
    longer by the mode, the end and two sentinels a span.

    Args:
        path: Table with a column ``text``.
        denoisers: What is drawn; None takes the seven of UL2.
        mode: Text before the inputs that names the kind; empty tells nothing.
        sentinel: Text of the sentinel of a span, by its number from 0.

    Source: UL2: Unifying Language Learning Paradigms (E57). Deviations: causal attention throughout, and plain-text
    sentinels.
    """

    def __init__(
        self,
        path: str,
        denoisers: list[Denoiser] | None = None,
        mode: str = "[{kind}]",
        sentinel: str = "<extra_id_{number}>",
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, packing=False, task_column=None, **kwargs)
        given = list(UL2) if denoisers is None else denoisers
        self.denoisers = [d if isinstance(d, Denoiser) else Denoiser(**d) for d in given]
        if not self.denoisers:
            raise ConfigError("denoisers", denoisers, "at least one, or null")
        if "{number}" not in sentinel:
            raise ConfigError("sentinel", sentinel, "a text with {number}")
        self.mode, self.sentinel = mode, sentinel

    def required_columns(self) -> Sequence[str]:
        """The text."""
        return ["text"]

    def cache_key(self) -> Sequence[str]:
        """Nothing: whole texts are kept, and corrupted afterwards."""
        return []

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Texts without special tokens."""
        return encode_filled([Segment("{text}", weight=1.0)], rows, numbers, tokenizer, self.max_length)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        seed = None if training else self.seed
        most = max(
            max(1, round(d.density * self.max_length / d.mean_span)) if d.kind != "S" else 1 for d in self.denoisers
        )
        collate = _Corrupting(self.tokenizer, self.denoisers, self.mode, self.sentinel, most, self.padding, seed)
        return self.batching.loader(self.examples[split], plan, collate, training)


class _Corrupting:
    """Makes a padded batch of texts, each corrupted by a denoiser drawn for it.

    Args:
        tokenizer: Cuts modes and sentinels.
        denoisers: What is drawn.
        mode: Text of a mode.
        sentinel: Text of a sentinel.
        most: Spans that a text can have.
        padding: Token that fills rows up.
        seed: Of the draws, with the row; None draws from the randomness of the loader.
    """

    def __init__(
        self,
        tokenizer: Any,
        denoisers: Sequence[Denoiser],
        mode: str,
        sentinel: str,
        most: int,
        padding: int,
        seed: int | None,
    ) -> None:
        specials = special_fields(tokenizer)
        texts = [Segment(specials["start"] + mode.replace("{kind}", kind)) for kind in "RSX"]
        texts += [Segment(sentinel.replace("{number}", str(number))) for number in range(most)]
        texts.append(Segment(specials["eos"]))
        found = [example.input_ids for example in encode_all(tokenizer, [[text] for text in texts])]
        self.modes, self.sentinels, self.end = dict(zip("RSX", found[:3], strict=True)), found[3:-1], found[-1]
        self.denoisers, self.padding, self.seed = list(denoisers), padding, seed
        weights = np.array([d.weight for d in denoisers])
        self.shares = weights / weights.sum()

    def __call__(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return collate_padded([self.corrupted(example) for example in examples], self.padding)

    def corrupted(self, example: dict[str, Tensor]) -> dict[str, Tensor]:
        """``[mode] inputs targets end`` with weight 1 on targets and end."""
        key = np.random.randint(2**31, size=4).tolist() if self.seed is None else (self.seed, int(example["row"]))
        draw = np.random.default_rng(key)
        denoiser = self.denoisers[draw.choice(len(self.denoisers), p=self.shares)]
        ids = example["input_ids"].tolist()
        inputs, targets = corrupt(ids, denoiser.spans(len(ids), draw), self.sentinels)
        inputs, targets = self.modes[denoiser.kind] + inputs, targets + self.end
        weights = torch.tensor([0.0] * len(inputs) + [1.0] * len(targets))
        weights[0] = 0
        return {**example, "input_ids": torch.tensor(inputs + targets), "weights": weights}
