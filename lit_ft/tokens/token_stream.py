"""Examples of a stream of rows; one block at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_table import TokenTable, checked_weights

_LENGTH_CLASS = 8  # tokens; the order of rows of one class is drawn


def block_batches(lengths: Sequence[int], batches: int, key: tuple[int, ...]) -> list[list[int]]:
    """Positions in a block as batches of similar length and nearly equal size; the order is a function of ``key``.

    Example:
        >>> lengths = [3, 60, 5, 58, 4, 30]
        >>> [[lengths[row] for row in batch] for batch in block_batches(lengths, batches=3, key=(0,))]
        [[5, 3], [58, 60], [4, 30]]
    """
    draw = np.random.default_rng(key)
    classes = -(-np.asarray(lengths, dtype=np.int64) // _LENGTH_CLASS)
    order = np.lexsort((draw.random(len(classes)), classes))
    parts = np.array_split(order, batches)
    return [parts[i].tolist() for i in draw.permutation(batches)]


class TokenStream:
    """Batches of a stream by their number, counted from 0 through all passes.

    Block b of a pass has its rows ``b * buffer`` to ``(b + 1) * buffer``; the last block may be shorter, and no block
    crosses the end of a pass. The content of batch g is a function of (rows, seed, g). Going on to the next batch costs
    nothing extra; any other position reads rows again, without encoding those that are skipped.

    Args:
        open_rows: Opens the stream from its beginning.
        encode: Makes the examples of some rows, given with their numbers, counted from 1.
        buffer: Rows of a block, a multiple of ``batch_size``.
        batch_size: Most rows of a batch.
        max_length: Longest example in tokens, for messages.
        seed: Seed of the order.

    Example:
        >>> texts = ["ab", "A long text", "cd", "Another one", "e"]
        >>> def encode(rows, numbers):
        ...     return [Encoded(list(row.encode()), [1.0] * len(row)) for row in rows]
        >>> stream = TokenStream(lambda: iter(texts), encode, buffer=4, batch_size=2, max_length=16)
        >>> for number in range(4):  # two batches of the first block, one of the second, then the next pass
        ...     print([bytes(example["input_ids"].tolist()).decode() for example in stream.batch(number)])
        ['cd', 'ab']
        ['Another one', 'A long text']
        ['e']
        ['A long text', 'Another one']
    """

    def __init__(
        self,
        open_rows: Callable[[], Iterator[Row]],
        encode: Callable[[Sequence[Row], Sequence[int]], list[Encoded]],
        buffer: int,
        batch_size: int,
        max_length: int,
        seed: int = 0,
    ) -> None:
        self.open_rows, self.encode = open_rows, encode
        self.buffer, self.batch_size, self.max_length, self.seed = buffer, batch_size, max_length, seed
        self._source: Iterator[Row] | None = None
        self._pass, self._read = 0, 0
        self._pass_batches: int | None = None  # known after the first pass
        self._place: tuple[int, int] | None = None
        self._table: TokenTable | None = None
        self._batches: list[list[int]] = []
        self._warned = False

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        """The examples of these batches."""
        return [example for number in numbers for example in self.batch(number)]

    def batch(self, number: int) -> list[dict[str, Tensor]]:
        """The examples of one batch."""
        turn, rest = divmod(number, self._pass_batches) if self._pass_batches else (0, number)
        block, place = divmod(rest, self.buffer // self.batch_size)
        if self._place != (turn, block):
            self._load(turn, block)
        if self._pass_batches and rest >= self._pass_batches:
            return self.batch(number)  # the first pass has just ended: the number is of a later pass
        table = self._table
        return [table[row] for row in self._batches[place]] if table is not None else []

    def _load(self, turn: int, block: int) -> None:
        """Read one block; the one before is dropped first."""
        self._place = self._table = None
        rows, ended = self._rows(turn, block * self.buffer)
        if ended:
            whole, rest = divmod(self._read, self.buffer)
            found = whole * (self.buffer // self.batch_size) + -(-rest // self.batch_size)
            if self._pass_batches not in (None, found):
                raise ConfigError("path", f"{self._read} rows in pass {turn + 1}", "the same rows in every pass")
            self._pass_batches, self._source = found, None
        if not rows:
            return
        first = block * self.buffer
        numbers = range(first + 1, first + 1 + len(rows))
        examples = checked_weights(self.encode(rows, numbers), numbers)
        kept = [number for number, example in enumerate(examples) if example.has_targets]
        batches = -(-len(rows) // self.batch_size)
        self._count(first, len(rows), kept, batches)
        self._table = TokenTable.of([examples[i] for i in kept], [first + i for i in kept])
        self._batches = block_batches(self._table.lengths, batches, (self.seed, turn, block))
        self._place = turn, block

    def _rows(self, turn: int, first: int) -> tuple[list[Row], bool]:
        """The rows of a block, and whether the stream ended in it."""
        if self._source is None or turn != self._pass or first < self._read:
            self._source, self._pass, self._read = self.open_rows(), turn, 0
        self._read += sum(1 for _ in islice(self._source, first - self._read))
        rows = list(islice(self._source, self.buffer)) if self._read == first else []
        self._read += len(rows)
        return rows, len(rows) < self.buffer

    def _count(self, first: int, rows: int, kept: Sequence[int], batches: int) -> None:
        """Warn once that rows are left out; refuse empty batches."""
        if len(kept) < batches:
            allowed = (
                f"rows with a target, at least {batches} of rows {first + 1} to {first + rows}: {len(kept)} have one,"
                " others are cut off by it, or weigh 0"
            )
            raise ConfigError("max_length", self.max_length, allowed)
        if len(kept) < rows and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"{rows - len(kept)} of rows {first + 1} to {first + rows} have no target and are left out (cut off by"
                " max_length, or all weights are 0); later ones are left out without a word"
            )
