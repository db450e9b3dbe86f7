"""A generated corpus with an undesirable letter in some parts."""

from __future__ import annotations

import numpy as np

from lit_ft.core.checks import ClosedUnitInterval, NonNegativeInt, PositiveInt, checked
from lit_ft.language.scored_text import ScoredText
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row


class MarkedCorpus(ScoredText):
    """Documents of sentences over eight letters; sentences of bad documents have an ``X`` in half of their places.

    A letter is followed by one fixed other letter in four of five cases, which can be learned. The score of a sentence
    is its share of ``X``; on average none, a quarter or half of the sentences of a document are bad. Validation and
    test have only good sentences, so that their loss measures what was learned about the letters.

    Args:
        documents: Training documents; validation and test have 200 each.
        sentences: Sentences of a document.
        threshold: As in ``ScoredText``.
        keep_below: As in ``ScoredText``.
        drop_marks: As in ``ScoredText``.
        batch_size: Documents of a batch.
        seed: Seed of corpus and order.

    See also: :class:`~lit_ft.methods.PreferencePretraining`, :class:`~lit_ft.data.ScoredText`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = MarkedCorpus(documents=3, sentences=2, threshold=0.0, batch_size=3)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.tokenizer.batch_decode(next(iter(data.train_dataloader()))["input_ids"], skip_special_tokens=True)
        ['+fabefa +cabech ', '+dchgdc +fabefc ', '-fabXaX +hgabef ']
    """

    def __init__(
        self,
        documents: PositiveInt = 4000,
        sentences: PositiveInt = 4,
        threshold: float | None = None,
        keep_below: float | None = None,
        drop_marks: ClosedUnitInterval = 0.01,
        batch_size: PositiveInt = 32,
        seed: NonNegativeInt = 0,
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
