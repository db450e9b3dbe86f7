"""Texts with spans removed, which a causal language model learns to restore: span corruption and UL2's mixture."""

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
    """One way to remove spans from a text.

    Args:
        kind: ``R`` (regular) and ``X`` (extreme) remove spans anywhere, ``S`` (sequential) removes the end.
        density: Share of the tokens that is removed, in (0, 1); for ``S`` on average.
        mean_span: Average length of a span in tokens, at least 1; ``S`` has one span.
        weight: Relative frequency with which it is drawn.

    See also: :func:`corrupt`.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> Denoiser("R", density=0.25, mean_span=2.0).spans(16, draw)  # 4 tokens in 2 spans
        [(8, 9), (11, 14)]
        >>> Denoiser("S", density=0.25).spans(16, draw)  # the end
        [(13, 16)]
    """

    kind: Literal["R", "S", "X"]
    density: OpenUnitInterval
    mean_span: Annotated[float, Range(low=1)] = 3.0
    weight: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        """Refuse arguments that remove nothing or everything."""
        checked({"self": self, **vars(self)})

    def spans(self, length: int, draw: np.random.Generator) -> list[tuple[int, int]]:
        """Spans (start, end) of a text of ``length`` tokens, at least 2; between two of them a token stays."""
        if self.kind == "S":
            longest = min(length - 1, max(1, round(2 * self.density * length) - 1))
            return [(length - int(draw.integers(1, longest + 1)), length)]
        taken = min(length - 1, max(1, round(self.density * length)))
        number = min(taken, length - taken, max(1, round(taken / self.mean_span)))
        # one kept part more than spans, the last may be empty: otherwise a single span would always be the end
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
    """``total`` split at random into ``number`` parts of at least 1, all splits equally likely."""
    cuts = np.sort(draw.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff([0, *cuts.tolist(), total]).tolist()


def corrupt(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """The text with a sentinel in place of each span, and the spans, each after its sentinel.

    Args:
        ids: Tokens of the text.
        spans: Spans (start, end) in ascending order, without overlap.
        sentinels: Tokens of the sentinel of each span; at least as many as spans.

    Example:
        >>> corrupt([1, 2, 3, 4, 5, 6], spans=[(1, 3), (5, 6)], sentinels=[[100], [101]])
        ([1, 100, 4, 5, 101], [100, 2, 3, 101, 6])
    """
    inputs, targets, place = [], [], 0
    for (start, end), sentinel in zip(spans, sentinels, strict=False):
        inputs += [*ids[place:start], *sentinel]
        targets += [*sentinel, *ids[start:end]]
        place = end
    return inputs + list(ids[place:]), targets


class MixtureOfDenoisers(TokenData):
    r"""Span corruption for causal language models: examples ``[mode] inputs targets`` with learned targets.

    Each text is corrupted by a randomly drawn denoiser: anew in every epoch for training, as a function of (seed,
    epoch, number of the batch); once, as a function of (seed, row), for evaluation. The model can then fill gaps, and
    continue a text in mode ``[S]``.

    Sentinels and modes are plain text, tokenised as such, so that no embedding has to be added; a tokenizer with tokens
    such as ``<extra_id_0>`` has one token for each. Attention is causal in the inputs too. ``max_length`` (paper: 512)
    and ``tokens_per_batch`` apply to the texts before corruption, which makes them longer by the mode, the end and two
    sentinels for each span.

    Args:
        path: Table with a column ``text``.
        denoisers: Denoisers to draw from; None takes the seven of UL2.
        mode: Text before the inputs that names the kind; may be empty.
        sentinel: Text of the sentinel of a span, by its number from 0.

    Source: UL2: Unifying Language Learning Paradigms (E57). Deviations: causal attention throughout, and plain-text
    sentinels.

    See also: :class:`Denoiser`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text\nThe quick brown fox\n")
        >>> denoisers = [Denoiser("R", density=0.25, mean_span=3.0)]
        >>> data = MixtureOfDenoisers("texts.csv", denoisers=denoisers, sentinel="<{number}>", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.decode(batch["input_ids"][0])
        '[R]The quick <0>own<1>x<0>br<1> fo</s>'
        >>> data.tokenizer.decode(batch["input_ids"][0][batch["weights"][0] > 0])  # learned
        '<0>br<1> fo</s>'
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
        tokenizer: Tokenizer of modes and sentinels.
        denoisers: Denoisers to draw from.
        mode: Text of a mode.
        sentinel: Text of a sentinel.
        most: Most spans of a text.
        padding: Padding token.
        seed: Seed of the draws, with the row; None draws from the randomness of the loader.
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
        texts = [Segment(specials.start + mode.replace("{kind}", kind)) for kind in "RSX"]
        texts += [Segment(sentinel.replace("{number}", str(number))) for number in range(most)]
        texts.append(Segment(specials.eos))
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
