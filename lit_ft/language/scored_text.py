"""Texts for pre-training, with a score for each part that says how undesirable it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_ft.core.checks import ClosedUnitInterval, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.batches import ScoredTextBatch
from lit_ft.sources.batching import Plan
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment, encode_all, special_fields
from lit_ft.tokens.token_data import TokenData
from lit_ft.tokens.token_table import TokenTable, collate_padded


class ScoredText(TokenData):
    """Rows ``{"texts": [...], "scores": [...]}``, the parts of a document, or ``{"text", "score"}``; high is bad.

    A batch is ``{input_ids, attention_mask, weights, scores, rows}``, see
    :class:`~lit_ft.language.batches.ScoredTextBatch`: the score of each token is that of its part, and 0 for the end of
    text. The two ways of learning from scores that change the data are here; those that change the loss are in
    ``PreferencePretraining``.

    - Conditional training: each part is preceded by ``good`` if its score is at most ``threshold``, else by ``bad``;
      these marks are learned too. In validation and test they are inputs only.
    - Filtering: training documents whose mean score is above ``keep_below`` are left out.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        threshold: Highest score of a good part; None adds no marks. 0 is a threshold. Paper: 5.6e-4 for toxicity, 0 for
            personal data and for code style.
        good: Mark of good parts, ordinary text: one token if the tokenizer has it.
        bad: Mark of the others.
        drop_marks: Share of the marks that are left out in training, in [0, 1]. Paper: 0.01; 0.1 for code style.
        keep_below: Highest mean score of a training document; None keeps all.

    Source: Pretraining Language Models with Human Preferences (E19); tomekkorbak/pretraining-with-human-feedback.
    Deviation: marks are text, where the reference adds tokens to the vocabulary.

    See also: :class:`~lit_ft.methods.PreferencePretraining`, :class:`~lit_ft.data.MarkedCorpus`.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.jsonl").write_text(json.dumps({"texts": ["Hi. ", "@#!"], "scores": [0.0, 0.5]}))
        >>> data = ScoredText("texts.jsonl", threshold=0.1, good="+", bad="-", drop_marks=0.0, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.decode(batch["input_ids"][0]), batch["scores"]
        ('<s>+Hi. -@#!</s>', tensor([[0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.5000, 0.5000, 0.5000,
                 0.5000, 0.0000]]))
    """

    batch: ClassVar[type] = ScoredTextBatch

    def __init__(
        self,
        path: str,
        threshold: float | None = None,
        good: str = "<|aligned|>",
        bad: str = "<|misaligned|>",
        drop_marks: ClosedUnitInterval = 0.01,
        keep_below: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, packing=False, task_column=None, **kwargs)
        checked(locals())
        if good == bad:
            raise ConfigError("bad", bad, "another mark than that of good parts")
        self.threshold, self.good, self.bad, self.drop_marks = threshold, good, bad, drop_marks
        self.keep_below = keep_below
        self.scores: dict[str, list[list[float]]] = {}

    def cache_key(self) -> Sequence[str]:
        """Nothing: marks are in the rows."""
        return []

    def _scored_rows(self) -> dict[str, list[Row]]:
        return super()._tables()

    def _tables(self) -> dict[str, list[Row]]:
        """Parts with their marks; the scores of the parts are kept in ``scores``."""
        tables: dict[str, list[Row]] = {}
        for place, (split, rows) in enumerate(self._scored_rows().items()):
            numbers = self._numbers(split, rows)
            parts = [_parts(row, f"{split} row {number}") for row, number in zip(rows, numbers, strict=True)]
            if split == "train" and self.keep_below is not None:
                limit = self.keep_below
                low = [sum(scores) / len(scores) <= limit for _, scores in parts]
                left, self.numbers[split] = list(compress(parts, low)), list(compress(numbers, low))
                rank_zero_info(f"{len(left)} of {len(parts)} training documents have a mean score of at most {limit}")
                if not left:
                    raise ConfigError("keep_below", limit, "at least the lowest mean score of a document")
                parts = left
            draw = np.random.default_rng((self.seed, place))
            marked = [self._marked(texts, scores, draw, split == "train") for texts, scores in parts]
            tables[split] = [{"parts": pieces, "learned": split == "train"} for pieces, _ in marked]
            self.scores[split] = [scores for _, scores in marked]
        return {split: tables.get(split, []) for split in SPLITS}

    def _marked(
        self, texts: list[str], scores: list[float], draw: np.random.Generator, training: bool
    ) -> tuple[list[str], list[float]]:
        """Mark and text in turn, with the score of each; a mark may be empty."""
        pieces = []
        for text, score in zip(texts, scores, strict=True):
            dropped = training and draw.random() < self.drop_marks
            mark = "" if self.threshold is None or dropped else self.good if score <= self.threshold else self.bad
            pieces += [mark, text]
        return pieces, [score for score in scores for _ in range(2)]

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """The weight of a token that counts is the number of its piece, counted from 1; loaders put the score there."""
        specials, documents = special_fields(tokenizer), []
        start = specials.start or specials.bos  # otherwise the first token of a document would be no target
        for row in rows:
            parts = list(row["parts"])
            parts[1:2] = [part.removeprefix(start) for part in parts[1:2]]  # a text that begins with it already
            parts[-1], closed = specials.closed(parts[-1])
            numbered = enumerate(parts, start=1)
            counts = [(text, float(n) if n % 2 == 0 or row["learned"] else 0.0) for n, text in numbered]
            end = ("" if closed else specials.eos, float(len(counts) + 1))
            documents.append([Segment(text, "text", n) for text, n in ((start, 0.0), *counts, end)])
        return encode_all(tokenizer, documents, self.max_length)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        table = ScoredTable(self.examples[split], self.scores[split])
        collate = partial(collate_scored, padding=self.padding)
        return self.batching.loader(table, plan, collate, training)


class ScoredTable:
    """Examples whose tokens have a score.

    Args:
        examples: Examples whose weights are 0, or the number of the piece of a token.
        scores: Scores of the pieces of each row; later tokens have score 0.

    Example:
        >>> from lit_ft.tokens.segments import Encoded
        >>> examples = TokenTable.of([Encoded([1, 5, 6], [0.0, 1.0, 2.0])], rows=[0])  # weights: numbers of pieces
        >>> example = ScoredTable(examples, scores=[[0.5, 0.25]])[0]
        >>> example["weights"], example["scores"]
        (tensor([0., 1., 1.]), tensor([0.0000, 0.5000, 0.2500]))
    """

    def __init__(self, examples: TokenTable, scores: Sequence[Sequence[float]]) -> None:
        self.examples, self.scores = examples, scores

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """``input_ids``, ``weights`` of 0 or 1, ``scores`` and ``row``."""
        example = self.examples[number]
        pieces = torch.tensor([0.0, *self.scores[int(example["row"])], 0.0])
        numbers = example["weights"].long()
        return {**example, "weights": (numbers > 0).float(), "scores": pieces[numbers]}


def collate_scored(examples: Sequence[dict[str, Tensor]], padding: int) -> dict[str, Tensor]:
    """Pad on the right, see :class:`~lit_ft.language.batches.ScoredTextBatch`.

    Example:
        >>> from lit_ft.tokens.segments import Encoded
        >>> examples = TokenTable.of([Encoded([1, 5, 6], [0.0, 1.0, 1.0]), Encoded([1, 7], [0.0, 1.0])], rows=[0, 1])
        >>> table = ScoredTable(examples, scores=[[0.5], [0.25]])
        >>> collate_scored([table[0], table[1]], padding=0)["scores"]
        tensor([[0.0000, 0.5000, 0.5000],
                [0.0000, 0.2500, 0.0000]])
    """
    scores = torch.nn.utils.rnn.pad_sequence([e["scores"] for e in examples], batch_first=True)
    return {**collate_padded(examples, padding), "scores": scores}


def _parts(row: Row, place: str) -> tuple[list[str], list[float]]:
    texts, scores = (
        row[many] if many in row else [row.get(one)] for many, one in (("texts", "text"), ("scores", "score"))
    )
    try:
        numbers = [float(str(score)) for score in scores]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or len(texts) != len(numbers) or not all(isinstance(text, str) for text in texts):
        raise ConfigError("path", sorted(row), f"texts with as many scores, or text and score; see {place}")
    return list(texts), numbers
