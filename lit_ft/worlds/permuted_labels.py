"""Generated tasks that can be solved from the context alone."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from lit_ft.core.checks import NonNegativeInt, PositiveInt, Range, checked
from lit_ft.language.answer_options import AnswerOptions
from lit_ft.language.many_shot import ManyShot
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Segment

ClassCount = Annotated[int, Range(low=2, high=10)]
PAIR = (Segment("{prompt}", "user"), Segment("{completion}", "assistant", 1.0))


class PermutedLabels(ManyShot):
    """Symbols and their labels, under a permutation that is drawn anew for every sequence.

    A sequence ``b3d0b3a1...`` has ``shots`` symbols, each with its label. Only the context tells
    the label of a symbol, so the loss of a network that does not learn in context stays at log(classes).

    Args:
        classes: Symbols, and labels; from 2 to 10.
        shots: Pairs of a sequence, k, at least 1.
        supervise: Learn ``all`` labels, or only the ``last``.
        sequences: Training sequences.
        eval_sequences: Sequences of validation and of the test each.
        batch_size: Sequences of a batch.
        seed: Seed of sequences and order.

    See also: :class:`PermutedQuestions`, :class:`~lit_ft.data.ManyShot`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = PermutedLabels(classes=3, sequences=2, eval_sequences=1)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.tokenizer.batch_decode(next(iter(data.train_dataloader()))["input_ids"])
        ['b2b2b2c1a0c1c1a0b2c1', 'a2a2a2a2a2c1b0c1b0b0']
    """

    def __init__(
        self,
        classes: ClassCount = 4,
        shots: PositiveInt = 10,
        supervise: Literal["all", "last"] = "all",
        sequences: PositiveInt = 300,
        eval_sequences: PositiveInt = 500,
        batch_size: PositiveInt = 32,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            path="generated", shots=shots, supervise=supervise, template=list(PAIR), sequences=sequences,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip
        checked(locals())
        self.classes, self.eval_sequences = classes, eval_sequences

    def _tables(self) -> dict[str, list[Row]]:
        tables = {}
        for number, split in enumerate(SPLITS):
            draw = np.random.default_rng((self.seed, number))
            count = self.sequences if split == "train" else self.eval_sequences
            tables[split] = [self._sequence(self._pairs(draw), split) for _ in range(count or 0)]
        return tables

    def _pairs(self, draw: np.random.Generator) -> list[Row]:
        labels = draw.permutation(self.classes)
        symbols = draw.integers(self.classes, size=self.shots)
        return [{"prompt": "abcdefghij"[symbol], "completion": str(labels[symbol])} for symbol in symbols]


class PermutedQuestions(AnswerOptions):
    """Questions for a model that learned from ``PermutedLabels``: a symbol after labelled symbols of its task.

    A question is ``b3d0b``, its options are all labels. Each task has its own permutation.

    Args:
        classes: Symbols, and labels; from 2 to 10.
        shots: Labelled symbols before the question, at most 19.
        tasks: Permutations, each with ten questions.
        batch_size: Questions of a batch.
        shot_seed: Seed of the examples.
        seed: Seed of the permutations and of the order.

    See also: :class:`PermutedLabels`, :class:`~lit_ft.methods.OptionScoring`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = PermutedQuestions(classes=3, shots=4, tasks=1)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("test")
        >>> batch = next(iter(data.test_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"][0]), batch["labels"][0]
        (['a2a2c1a2a0', 'a2a2c1a2a1', 'a2a2c1a2a2'], tensor(2))
    """

    def __init__(
        self,
        classes: ClassCount = 4,
        shots: NonNegativeInt = 0,
        tasks: PositiveInt = 50,
        batch_size: PositiveInt = 100,
        shot_seed: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        checked(locals())
        super().__init__(
            path="generated", options={label: label for label in "0123456789"[:classes]}, prefix="", shots=shots,
            separator="", task_column="task", shot_seed=shot_seed, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        self.classes, self.tasks = classes, tasks

    def _tables(self) -> dict[str, list[Row]]:
        draw = np.random.default_rng(self.seed)
        permutations = [draw.permutation(self.classes) for _ in range(self.tasks)]

        def rows(count: int) -> list[Row]:
            drawn = [(task, symbol) for task in range(self.tasks) for symbol in draw.integers(self.classes, size=count)]
            return [{"task": t, "prompt": "abcdefghij"[s], "answer": str(permutations[t][s])} for t, s in drawn]

        return {"train": rows(20), "val": [], "test": rows(10)}
