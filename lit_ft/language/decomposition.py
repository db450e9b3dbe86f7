"""Documents cut into lengths that are powers of two; every batch holds one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from lit_ft.core.checks import PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.document_pieces import DocumentPieces
from lit_ft.sources.batching import Plan
from lit_ft.tokens.token_table import TokenTable


def decompose(length: int, smallest: int, largest: int) -> list[int]:
    r"""Lengths of the pieces of a document: repeatedly the largest :math:`2^k+1` that fits.

    A piece has one token more than a power of two, because its first token is not predicted. The rest at the end,
    shorter than :math:`2^{smallest}+1`, is dropped.

    Args:
        length: Tokens of the document.
        smallest: Least k.
        largest: Greatest k.

    Example:
        >>> decompose(50, smallest=2, largest=4)  # 50 - 17 - 17 - 9 - 5 = 2 tokens are dropped
        [17, 17, 9, 5]
    """
    pieces = []
    while length - 1 >= 2**smallest:
        power = min(largest, (length - 1).bit_length() - 1)
        pieces.append(2**power + 1)
        length -= pieces[-1]
    return pieces


def bucket_plan(
    lengths: Sequence[int], tokens_per_batch: int, curriculum: str = "uniform", cycles: int = 1, seed: int = 0
) -> Plan:
    r"""Batches of one length each, of the same number of tokens; a pure function of the epoch.

    With ``grow`` each batch of a cycle is of length :math:`2^k` with odds :math:`n_k2^{-k}`, where :math:`n_k` batches
    of that length belong to the cycle; a length of which none are left is not drawn any more. Since the odds are
    constant, the batches of a length come at the times of a Poisson process of that rate.

    Args:
        lengths: Tokens of each piece, one more than a power of two.
        tokens_per_batch: Predicted tokens of a batch.
        curriculum: ``uniform`` draws batches in any order; ``grow`` draws short pieces sooner, by odds; ``strict``
            begins each cycle with all of the shortest.
        cycles: Cycles of an epoch, each with its share of every length.
        seed: The order is a function of ``(seed, epoch)`` alone.

    Example:
        >>> lengths = [5, 5, 9, 9, 5, 5]
        >>> plan = bucket_plan(lengths, tokens_per_batch=8, curriculum="strict")
        >>> [[lengths[piece] for piece in batch] for batch in plan(0)]
        [[5, 5], [5, 5], [9], [9]]
    """
    by_length: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        by_length.setdefault(length, []).append(number)

    def plan(epoch: int) -> list[list[int]]:
        draw = np.random.default_rng((seed, epoch))
        placed: list[tuple[float, float, list[int]]] = []
        for length in sorted(by_length):
            numbers = draw.permutation(by_length[length]).tolist()
            size = max(1, tokens_per_batch // (length - 1))
            batches = [numbers[i : i + size] for i in range(0, len(numbers), size)]
            cycle_of = [i * cycles // len(batches) for i in range(len(batches))]
            time = np.zeros(cycles)
            for cycle, batch in zip(cycle_of, batches, strict=True):
                if curriculum == "grow":
                    time[cycle] += draw.exponential((length - 1) / cycle_of.count(cycle))
                else:
                    time[cycle] = length if curriculum == "strict" else draw.random()
                placed.append((cycle, float(time[cycle]), batch))
        return [batch for _, _, batch in sorted(placed, key=lambda item: item[:2])]

    return plan


class DatasetDecomposition(DocumentPieces):
    r"""Texts cut into pieces of :math:`2^k+1` tokens, each of one document; a batch holds pieces of one length.

    Compared with joining and cutting at a fixed length, no token attends to another document, and attention costs
    :math:`\sum_i l_i^2` instead of tokens x context. Every batch predicts ``tokens_per_batch`` tokens, so short pieces
    form large batches. Every token of ``{text}`` and the end of text are learned.

    Args:
        path: Table with a column ``text``.
        smallest: Least k; shorter rests are dropped, with a message that counts them. Paper: 8.
        largest: Greatest k. Paper: 13.
        curriculum: Order of lengths within each cycle: ``uniform``; ``grow`` draws the length of each batch with odds
            that double where it halves (Paper: 32:16:8:4:2:1 for k of 8 to 13, times the tokens that there are);
            ``strict`` has all short pieces first.
        cycles: Cycles of an epoch. Paper: 8.
        tokens_per_batch: Predicted tokens of a batch, at least :math:`2^{largest}`.

    Source: H. Pouransari et al., Dataset Decomposition: Faster LLM Training with Variable Sequence Length Curriculum,
    2024, arXiv:2405.13226; apple/ml-dataset-decomposition at 9a23939 (``get_dd_params.py``, ``MyRandomMix``).
    Deviations: pieces longer than the greatest length are cut to it (the reference may draw a shorter one), the last
    batch of a length may be smaller, and ``strict`` is not of the paper.

    See also: :class:`~lit_ft.data.JoinedText`, with which it is compared.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text\n" + "a" * 40 + "\n" + "b" * 20 + "\n" + "c" * 9 + "\n")
        >>> data = DatasetDecomposition("texts.csv", smallest=2, largest=4, tokens_per_batch=16, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> [tuple(batch["input_ids"].shape) for batch in data.train_dataloader()]
        [(1, 17), (1, 5), (1, 9), (1, 17), (1, 17)]
    """

    def __init__(
        self,
        path: str,
        smallest: PositiveInt = 5,
        largest: Annotated[int, Range(high=20)] = 9,
        curriculum: Literal["uniform", "grow", "strict"] = "grow",
        cycles: PositiveInt = 8,
        tokens_per_batch: PositiveInt = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, tokens_per_batch=tokens_per_batch, **kwargs)
        checked(locals())
        if smallest > largest:
            raise ConfigError("smallest", smallest, f"1 to largest, which is {largest}")
        if tokens_per_batch < 2**largest:
            raise ConfigError("tokens_per_batch", tokens_per_batch, f"at least 2^largest = {2**largest}")
        self.smallest, self.largest, self.curriculum, self.cycles = smallest, largest, curriculum, cycles

    def cut(self, table: TokenTable, split: str) -> list[tuple[int, int, int]]:
        """Pieces of each text by :func:`decompose`."""
        pieces = []
        for number, length in enumerate(table.lengths):
            start = int(table.starts[number])
            for size in decompose(length, self.smallest, self.largest):
                pieces.append((start, size, int(table.rows[number])))
                start += size
        if not pieces:
            raise ConfigError("smallest", self.smallest, f"less: no {split} text has {2**self.smallest + 1} tokens")
        return pieces

    def _buckets(self, split: str) -> Plan:
        lengths, budget = self.examples[split].lengths, self.batching.tokens_per_batch
        assert budget is not None
        return bucket_plan(lengths, budget, self.curriculum, self.cycles, self.seed)
