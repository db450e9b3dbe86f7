"""The base of data modules that cut whole texts into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_ft.core.checks import NonNegativeInt, PositiveInt
from lit_ft.language.instructions import TEXT
from lit_ft.sources.splits import Share
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_data import TokenData, encode_filled
from lit_ft.tokens.token_table import TokenTable


class DocumentPieces(TokenData):
    r"""Texts that are tokenised whole, with the end of text, and then cut into pieces; a subclass implements ``cut``.

    Every token of a piece but the first is learned. A message counts the tokens that are in no piece.

    Args:
        path: Table with a column ``text``.
        val_path: Table for validation; None takes the source's own, or ``val_fraction`` of ``path``.
        tokens_per_batch: Predicted tokens of a batch.
        val_fraction: Share of ``path`` for validation, in [0, 1), also where the source has a split for it; None is 0.1
            where it has none.
        seed: Seed of split and order.
        num_workers: Processes that prepare batches.

    See also: :class:`~lit_ft.data.JoinedText`, :class:`~lit_ft.data.DatasetDecomposition`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> class Halves(DocumentPieces):
        ...     def cut(self, table, split):
        ...         ends = zip(table.starts.tolist(), table.lengths)
        ...         return [(start + half, size // 2, 0) for start, size in ends for half in (0, size // 2)]
        >>> _ = Path("texts.csv").write_text("text\nabcdefg\nuvwxyz\n")
        >>> data = Halves("texts.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> [data.tokenizer.decode(piece["input_ids"]) for piece in data.examples["train"]]
        ['abcd', 'efg</s>', 'uvw', 'xyz']
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        tokens_per_batch: PositiveInt = 2048,
        val_fraction: Share | None = None,
        seed: int = 0,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            path=path, val_path=val_path, tokens_per_batch=tokens_per_batch, max_length=2**20,
            val_fraction=val_fraction, seed=seed, num_workers=num_workers,
        )  # fmt: skip

    def cut(self, table: TokenTable, split: str) -> list[tuple[int, int, int]]:
        """Start, tokens and row of each piece of the flat tokens of a split; at least one."""
        raise NotImplementedError(f"{type(self).__name__} defines cut(table, split)")

    def required_columns(self) -> Sequence[str]:
        """The text."""
        return ["text"]

    def cache_key(self) -> Sequence[str]:
        """Nothing: whole texts are kept, and cut afterwards."""
        return []

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Whole texts."""
        return encode_filled(TEXT, rows, numbers, tokenizer)

    def setup(self, stage: str) -> None:
        """Read, tokenise and cut; once."""
        if self.examples:
            return
        super().setup(stage)
        for split, table in self.examples.items():
            pieces = self.cut(table, split)
            sizes = [size for _, size, _ in pieces]
            lost = len(table.ids) - sum(sizes)
            rank_zero_info(f"{split}: {len(pieces)} pieces; {lost} of {len(table.ids)} tokens are in none")
            kept = torch.cat([torch.arange(start, start + size) for start, size, _ in pieces])
            ends = torch.tensor([0, *sizes]).cumsum(0)
            weights = torch.ones(len(kept))
            weights[ends[:-1]] = 0  # the first token of a piece has nothing before it
            self.examples[split] = TokenTable(table.ids[kept], weights, ends, torch.tensor([row for *_, row in pieces]))
