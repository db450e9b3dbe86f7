"""The usual pre-training data: texts joined to one stream, cut at a fixed length."""

from __future__ import annotations

from typing import Any

import torch

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.document_pieces import DocumentPieces
from lit_ft.sources.batching import Plan, shuffled_batches
from lit_ft.tokens.token_table import TokenTable


class JoinedText(DocumentPieces):
    r"""Texts one after another, cut into pieces of ``context`` + 1 tokens without regard to their ends.

    The baseline of ``DatasetDecomposition``: a token attends to the texts before its own, and attention costs tokens x
    context. The texts are in the order that the split drew; the rest after the last whole piece is dropped, with a
    message that counts it.

    Args:
        path: Table with a column ``text``.
        context: Predicted tokens of a piece.
        tokens_per_batch: Predicted tokens of a batch, at least ``context``.

    See also: :class:`~lit_ft.data.DatasetDecomposition`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text\nabcdefg\nuvwxyz\n")
        >>> data = JoinedText("texts.csv", context=5, tokens_per_batch=10, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.tokenizer.batch_decode(next(iter(data.train_dataloader()))["input_ids"])
        ['abcdef', 'g</s>uvwx']
    """

    def __init__(
        self,
        path: str,
        context: PositiveInt = 512,
        tokens_per_batch: PositiveInt = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, tokens_per_batch=tokens_per_batch, **kwargs)
        checked(locals())
        if tokens_per_batch < context:
            raise ConfigError("tokens_per_batch", tokens_per_batch, f"at least the context, {context}")
        self.context = context

    def cut(self, table: TokenTable, split: str) -> list[tuple[int, int, int]]:
        """Pieces of one length; the row of a piece is that of the text in which it begins."""
        size, owners = self.context + 1, torch.repeat_interleave(table.rows, torch.tensor(table.lengths))
        starts = range(0, len(table.ids) - size + 1, size)
        if not starts:
            raise ConfigError("context", self.context, f"less: all {split} texts have {len(table.ids)} tokens")
        return [(start, size, int(owners[start])) for start in starts]

    def _buckets(self, split: str) -> Plan:
        assert self.batching.tokens_per_batch is not None
        pieces = self.batching.tokens_per_batch // self.context
        return shuffled_batches(len(self.examples[split]), pieces, seed=self.seed)
