"""Instructions from a source that is too large for memory, or has no end that one waits for."""

from __future__ import annotations

from functools import partial
from typing import Any

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.instructions import Instructions
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.tables import read_rows, stream_rows
from lit_ft.tokens.token_stream import TokenStream
from lit_ft.tokens.token_table import collate_padded


class StreamedInstructions(Instructions):
    """Rows as in ``Instructions``, read one block after another and tokenised when their block comes.

    The stream is read in passes. A pass is cut into blocks of ``buffer`` rows; rows of about the same length in a block
    make a batch, and the batches of a block come in an order drawn for this block of this pass. Every row comes once in
    a pass. An epoch is ``epoch_batches`` batches, wherever they begin in a pass: the next one goes on there.

    What batch n holds is a function of (rows, seed, n), so the state of the loader is that position alone, and a
    resumed run sees the same batches. Resuming reads the rows of the broken-off pass again up to there, without
    tokenising them (should the position lie in a later pass, one whole pass first, to count it).

    Limits:

    - Rows are shuffled within their block only: a source sorted by topic is to be shuffled beforehand.
    - Tokens are not cached: every pass tokenises anew.
    - Each process of DDP, and each worker, reads and tokenises all rows and holds a block of its own; processes share
      out batches. Workers also begin every epoch by skipping to its place, and are forked.
    - A broken row is met when its block is read; only the first row is looked at before training.
    - Rows without a target are left out, with one warning; the batches of their block are smaller.
    - No packing, no token budget, no tasks, no share of ``path`` for validation.
    - A source must give the same rows in the same order in every pass. A ``datasets`` source reads ahead by itself.

    Args:
        path: A file (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``), a pattern for several (``shards/*.jsonl``, in the
            order of their names), ``packaged:NAME``, or a folder or hub id of ``datasets``, opened as a stream.
        epoch_batches: Batches of an epoch over all processes, a multiple of their number.
        val_path: Table for validation, read whole; None has no validation.
        test_path: Table for the test, read whole; None has no test.
        buffer: Rows of a block, in memory at a time; a multiple of ``batch_size``.
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
            path=path, val_path=val_path, test_path=test_path, val_fraction=0.0, test_fraction=0.0, max_rows=None,
            tokens_per_batch=None, packing=False, task_column=None, **kwargs,
        )  # fmt: skip
        checked(locals())
        if buffer % self.batch_size:
            raise ConfigError("buffer", buffer, f"a multiple of batch_size = {self.batch_size}")
        self.epoch_batches, self.buffer = epoch_batches, buffer
        self.stream: TokenStream | None = None

    def setup(self, stage: str) -> None:
        """Look at the first row; read and tokenise what is for evaluation; once, whatever the stage."""
        if self.stream is not None:
            return
        self.tokenizer = self._tokenizer()
        rows = partial(stream_rows, self.source.path, self.required_columns())
        first = next(rows())
        self._encode([first], [1])  # a template that does not fit is an error now
        self.stream = TokenStream(rows, self._encode, self.buffer, self.batch_size, self.max_length, self.seed)
        read = partial(read_rows, required=self.required_columns(), max_rows=self.source.splits.max_eval_rows)
        others = self.source.others.items()
        self.examples = self._encoded({split: read(path) for split, path in others if path is not None})

    def train_dataloader(self) -> ResumableLoader:
        """The batches of an epoch, which goes on in the stream where the last one ended."""
        processes = self.trainer.world_size if self.trainer is not None else 1
        if self.epoch_batches % processes:
            raise ConfigError("epoch_batches", self.epoch_batches, f"a multiple of the {processes} processes")
        size = self.epoch_batches
        collate = partial(collate_padded, padding=self.padding)

        def numbers(epoch: int) -> list[list[int]]:
            return [[epoch * size + i] for i in range(size)]

        return self.batching.loader(self.stream, numbers, collate)

    def predict_dataloader(self) -> ResumableLoader:
        """The rows of the test, else of validation, in their order."""
        if not self.examples:
            raise ConfigError("val_path", None, "a table to predict on, here or in test_path: a stream is for training")
        return super().predict_dataloader()
