"""Many questions of one task with their answers, one after another in one context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment, encode_all, fill, special_fields
from lit_ft.tokens.token_data import ExampleLength, TokenData

SHOT = (Segment("{prompt}\n", "user"), Segment("{completion}\n\n", "assistant", 1.0))


class ManyShot(TokenData):
    r"""In-context examples in one sequence, with all answers learned.

    .. math:: -\sum_{i=1}^k\log p(y_i\mid x_1,y_1,\dots,x_{i-1},y_{i-1},x_i)

    which trains every number of shots from 0 to k - 1 at once, for the cost of one sequence. Sequences are drawn with
    ``seed`` from rows of one task; if a sequence is too long, whole examples are dropped, the first ones first.
    In validation and test only the last answer is a target, after k - 1 examples, for either ``supervise``.

    Args:
        path: Table with the rows, split into training, validation and test before sequences are made.
        shots: Examples of a sequence, k, at least 1.
        supervise: Learn ``all`` answers (the paper), or only the ``last``, as in few-shot fine-tuning.
        template: Segments of one example; None is prompt, line end, completion, empty line.
        sequences: Sequences drawn for training; None draws the number of rows divided by ``shots``.
        max_length: Longest sequence in tokens.

    Source: W. He et al., You Only Fine-tune Once: Many-Shot In-Context Fine-Tuning for Large Language Models, 2025,
    arXiv:2506.11103. Deviation: sequences are drawn once, not anew in every epoch, so that they are tokenised once.

    See also: :class:`~lit_ft.data.PermutedLabels`, :class:`~lit_ft.data.AnswerOptions`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("sums.csv").write_text("prompt,completion\n1+1=,2\n1+2=,3\n2+2=,4\n2+3=,5\n")
        >>> template = [Segment("{prompt}"), Segment("{completion};", weight=1.0)]
        >>> data = ManyShot("sums.csv", shots=3, template=template, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.decode(batch["input_ids"][0])
        '2+2=4;2+3=5;1+1=2;'
        >>> data.tokenizer.decode(batch["input_ids"][0][batch["weights"][0] > 0])  # learned
        '4;5;2;'
    """

    def __init__(
        self,
        path: str,
        shots: PositiveInt = 8,
        supervise: Literal["all", "last"] = "all",
        template: list[Segment] | None = None,
        sequences: PositiveInt | None = None,
        max_length: ExampleLength = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, max_length=max_length, max_rows=None, max_eval_rows=None, **kwargs)
        checked(locals())
        self.shots, self.supervise, self.sequences = shots, supervise, sequences
        self.template = [s if isinstance(s, Segment) else Segment(**s) for s in template or SHOT]

    def cache_key(self) -> Sequence[str]:
        """The template; the rows are the sequences, with a mark which answers are targets."""
        return [repr(self.template)]

    def _tables(self) -> dict[str, list[Row]]:
        """Sequences of each split, made of rows of that split alone."""
        tables, specials = super()._tables(), special_fields(self.tokenizer)
        for split, rows in tables.items():
            for row, row_number in zip(rows, self._numbers(split, rows), strict=True):
                fill(self.template, row, specials, row_number)  # errors name the number of the row
        self.numbers = {}  # a sequence is no row of the table
        found: dict[str, list[Row]] = {}
        for number, split in enumerate(SPLITS):
            draw = np.random.default_rng((self.seed, number))
            by_task: dict[str, list[Row]] = {}
            for row in tables[split]:
                by_task.setdefault(str(row[self.task_column]) if self.task_column else "", []).append(row)
            count = self.sequences if split == "train" else None
            found[split] = self._draw(by_task, count or max(1, len(tables[split]) // self.shots), draw, split)
        return found

    def _draw(self, by_task: dict[str, list[Row]], count: int, draw: np.random.Generator, split: str) -> list[Row]:
        if not by_task:
            return []
        small = [f"{task or 'all rows'} ({len(rows)})" for task, rows in by_task.items() if len(rows) < self.shots]
        if small:
            raise ConfigError("shots", self.shots, f"no more than the {split} rows of a task: {', '.join(small)}")
        names = sorted(by_task)
        shares = np.array([len(by_task[name]) for name in names], dtype=float)
        found = []
        for _ in range(count):
            name = names[draw.choice(len(names), p=shares / shares.sum())]
            chosen = draw.choice(len(by_task[name]), self.shots, replace=False)
            sequence = self._sequence([by_task[name][i] for i in chosen.tolist()], split)
            found.append(sequence | ({self.task_column: name} if self.task_column else {}))
        return found

    def _sequence(self, examples: list[Row], split: str) -> Row:
        return {"examples": examples, "answers": self.supervise if split == "train" else "last"}

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Tokens of whole sequences."""
        specials = special_fields(tokenizer)
        shots = [
            fill(self.template, shot, specials, number)
            for number, row in zip(numbers, rows, strict=True)
            for shot in row["examples"]
        ]
        for number, segments in enumerate(shots):
            place, shot = divmod(number, self.shots)
            if rows[place]["answers"] == "last" and shot + 1 < self.shots:
                shots[number] = [replace(segment, weight=0.0) for segment in segments]
        encoded = encode_all(tokenizer, shots)
        return [self._join(encoded[i : i + self.shots]) for i in range(0, len(encoded), self.shots)]

    def _join(self, shots: Sequence[Encoded]) -> Encoded:
        """The last examples that fit."""
        start = 0
        while start < len(shots) - 1 and sum(len(shot) for shot in shots[start:]) > self.max_length:
            start += 1
        joined = Encoded()
        for shot in shots[start:]:
            for name in ("input_ids", "weights", "tags", "embed"):
                getattr(joined, name).extend(getattr(shot, name))
        return joined.take(slice(self.max_length))
