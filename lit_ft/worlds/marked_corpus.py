"""A generated corpus of which some parts have a letter that is not wanted."""

from __future__ import annotations

import numpy as np

from lit_ft.core.checks import ClosedUnitInterval, PositiveInt, checked
from lit_ft.language.scored_text import ScoredText
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row


class MarkedCorpus(ScoredText):
    """Documents of sentences over eight letters; sentences of bad documents have an ``X`` in half of their places.

    A letter is followed by one fixed other letter in four of five cases, which is what can be learned. The score of a
    sentence is the share of ``X``; of each document's sentences none, a quarter or a half are bad. Validation and test
    have good sentences alone, so that their loss says what was learned of the letters.

    Args:
        documents: Training documents; validation and test have 200 each.
        sentences: Sentences of a document.
        threshold: As in ``ScoredText``.
        keep_below: As in ``ScoredText``.
        drop_marks: As in ``ScoredText``.
        batch_size: Documents of a batch.
        seed: Seed of corpus and order.
    """

    def __init__(
        self,
        documents: PositiveInt = 4000,
        sentences: PositiveInt = 4,
        threshold: float | None = None,
        keep_below: float | None = None,
        drop_marks: ClosedUnitInterval = 0.01,
        batch_size: PositiveInt = 32,
        seed: int = 0,
    ) -> None:
        checked(locals())
        super().__init__(
            path="generated", threshold=threshold, good="+", bad="-", drop_marks=drop_marks, keep_below=keep_below,
            max_length=10 * sentences, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        self.documents, self.sentences = documents, sentences

    def _scored_rows(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for number, split in enumerate(SPLITS):
            draw = np.random.default_rng((self.seed, number))
            count = self.documents if split == "train" else 200
            found[split] = [self._document(draw, split == "train") for _ in range(count)]
        return found

    def _document(self, draw: np.random.Generator, mixed: bool) -> Row:
        share = draw.choice([0.0, 0.25, 0.5]) if mixed else 0.0
        texts = [_sentence(draw, bool(draw.random() < share)) for _ in range(self.sentences)]
        return {"texts": texts, "scores": [text.count("X") / (len(text) - 1) for text in texts]}


def _sentence(draw: np.random.Generator, bad: bool, length: int = 6) -> str:
    letters = [int(draw.integers(8))]
    while len(letters) < length:
        letters.append((3 * letters[-1] + 1) % 8 if draw.random() < 0.8 else int(draw.integers(8)))
    replaced = draw.random(length) < (0.5 if bad else 0.0)
    return "".join("X" if x else "abcdefgh"[n] for n, x in zip(letters, replaced, strict=True)) + " "
