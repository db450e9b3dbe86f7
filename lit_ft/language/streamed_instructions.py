"""Instructions from a source that is too large for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.instructions import Instructions
from lit_ft.sources.layouts import Reading, announce, read_tables
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.tables import Row
from lit_ft.sources.text_layouts import SUPERVISED
from lit_ft.tokens.token_stream import TokenStream
from lit_ft.tokens.token_table import collate_padded


class StreamedInstructions(Instructions):
    r"""Rows as in ``Instructions``, read and tokenised one block after another.

    The stream is read in passes. A pass is cut into blocks of ``buffer`` rows; rows of similar length in a block form a
    batch, and the order of the batches of a block is drawn for this block of this pass. Every row is used once in a
    pass. An epoch is ``epoch_batches`` batches, wherever it begins in a pass; the next epoch goes on from there.

    Batch n is a function of (rows, seed, n), so the state of the loader is that position alone, and a resumed run sees
    the same batches. Resuming reads the rows of the interrupted pass again up to the position, without tokenising them
    (for a position in a later pass, one whole pass first, to count it).

    Limits:

    - Rows are shuffled within their block only: shuffle a source that is sorted by topic beforehand.
    - Tokens are not cached: every pass tokenises anew.
    - Each process of DDP, and each worker, reads and tokenises all rows and holds a block of its own; batches are
      divided among processes. Workers also begin every epoch by skipping to its position, and are forked.
    - A broken row is an error when its block is read; only the first row is checked before training. The columns that
      hold something in the first block decide how all rows are read.
    - Rows without a target are left out, with one warning; the batches of their block are smaller.
    - No packing, no token budget, no tasks, no share of ``path`` for validation.
    - A source must give the same rows in the same order in every pass. A ``datasets`` source reads ahead by itself.

    Args:
        path: A file (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``), a pattern for several (``shards/*.jsonl``, in the
            order of their names), ``packaged:NAME``, or a folder or hub id of ``datasets``, opened as a stream.
        epoch_batches: Batches of an epoch over all processes, a multiple of their number.
        val_path: Table for validation, read whole; None is the own split of a ``datasets`` source, or no validation.
        test_path: Table for the test, read whole; likewise.
        buffer: Rows of a block, which are in memory together; a multiple of ``batch_size``.

    See also: :class:`~lit_ft.tokens.token_stream.TokenStream`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("sums.csv").write_text("prompt,completion\n1+1=,2\n1+2=,3\n2+2=,4\n2+3=,5\n")
        >>> data = StreamedInstructions("sums.csv", epoch_batches=3, buffer=4, batch_size=2)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> for batch in data.train_dataloader():  # the third batch is of the second pass
        ...     print(data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True))
        ['2+3=5', '2+2=4']
        ['1+2=3', '1+1=2']
        ['1+1=2', '2+3=5']
    """

    def __init__(
        self,
        path: str,
        epoch_batches: PositiveInt,
        buffer: PositiveInt = 1024,
        val_path: str | None = None,
        test_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, val_path=val_path, test_path=test_path, val_fraction=None, test_fraction=None, max_rows=None,
            tokens_per_batch=None, packing=False, task_column=None, **kwargs,
        )  # fmt: skip
        checked(locals())
        if buffer % self.batch_size:
            raise ConfigError("buffer", buffer, f"a multiple of batch_size = {self.batch_size}")
        self.epoch_batches, self.buffer = epoch_batches, buffer
        self.stream: TokenStream | None = None

    def setup(self, stage: str) -> None:
        """Check the first row; read and tokenise the rows for evaluation; once, whatever the stage."""
        if self.stream is not None:
            return
        self.tokenizer = self._tokenizer()
        rows = partial(self.source.stream, self.required_columns())
        if self.template is None:
            first = list(islice(rows(), self.buffer))
            reading = Reading(self.source.path, SUPERVISED, first, **self._how())
            rows = partial(_read, rows, reading)
        self._encode([next(rows())], [1])  # a template that does not fit is an error now
        if self.template is None:
            self._check_verdicts({"train": [reading.row(row, n) for n, row in enumerate(first, start=1)]},
                                 {"train": range(1, len(first) + 1)})  # fmt: skip
            announce(self.source.path, reading)
        self.stream = TokenStream(rows, self._encode, self.buffer, self.batch_size, self.max_length, self.seed)
        tables = self.source.beside(self.required_columns(), self.source.splits.max_eval_rows)
        if self.template is None:
            numbers = {split: range(1, len(table) + 1) for split, table in tables.items()}
            tables = read_tables(tables, numbers, self.source.paths(), SUPERVISED, **self._how())
            self._check_verdicts(tables, numbers)
        self.examples = self._encoded(tables)

    def train_dataloader(self) -> ResumableLoader:
        """The batches of an epoch, which begins in the stream where the last one ended."""
        processes = self.trainer.world_size if self.trainer is not None else 1
        if self.epoch_batches % processes:
            raise ConfigError("epoch_batches", self.epoch_batches, f"a multiple of the {processes} processes")
        size = self.epoch_batches
        collate = partial(collate_padded, padding=self.padding)

        def numbers(epoch: int) -> list[list[int]]:
            return [[epoch * size + i] for i in range(size)]

        return self.batching.loader(self.stream, numbers, collate)

    def predict_dataloader(self) -> ResumableLoader:
        """The test rows, otherwise the validation rows, in their order."""
        if not self.examples:
            raise ConfigError("val_path", None, "a table to predict on, here or in test_path: a stream is for training")
        return super().predict_dataloader()


def _read(rows: Callable[[], Iterator[Row]], reading: Reading) -> Iterator[Row]:
    return (reading.row(row, number) for number, row in enumerate(rows(), start=1))
