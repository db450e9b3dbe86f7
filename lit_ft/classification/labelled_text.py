"""Texts with one label each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.checks import PositiveInt
from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import Plan
from lit_ft.sources.class_names import labelled
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import Share, first_with_rows
from lit_ft.sources.table_data import TableData
from lit_ft.tokens.tokenized import TokenRows, tokenized
from lit_ft.tokens.tokenizer_of import tokenizer_of

TextRow = tuple[Tensor, int]


class LabelledText(TableData):
    r"""Text classification from any table.

    A batch is ``{input_ids, attention_mask, labels}`` of shapes (rows, tokens), (rows, tokens), (rows,), padded on the
    right to its longest row, see :class:`~lit_ft.classification.batches.LabelledTextBatch`. A batch has rows of similar
    length. The tokenizer is that of the method, without a Trainer ``data.tokenizer``. A class is called as
    :func:`~lit_ft.sources.class_names.class_name` says; classes are numbered in order, numbers by size, then texts.

    Warns, with counts, of rows that were cut, of texts that occur in two splits, and of labels that look alike.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        text: Column with the text.
        label: Column with the label.
        batch_size: Rows in a batch.
        max_length: Longest row in tokens, special tokens included; longer ones are cut at the end.
        test_fraction: Share of ``path`` for the test, in [0, 1), also where the source has a split for it; None is 0.1
            where it has none.

    See also: :class:`~lit_ft.methods.TextClassifier`, which takes these batches.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text,label\nso good,pos\nbad,neg\nfine,pos\nawful,neg\n")
        >>> data = LabelledText("texts.csv", val_fraction=0.0, test_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.class_names, batch["labels"], tuple(batch["input_ids"].shape)
        (['neg', 'pos'], tensor([0, 0, 1, 1]), (4, 7))
        >>> data.tokenizer.decode(batch["input_ids"][0])
        'awful<pad><pad>'
    """

    batch: ClassVar[type] = LabelledTextBatch
    shares: ClassVar[Mapping[str, float]] = {"val": 0.1, "test": 0.1}

    def __init__(
        self,
        path: str,
        text: str = "text",
        label: str = "label",
        batch_size: PositiveInt = 32,
        max_length: PositiveInt = 128,
        test_fraction: Share | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, batch_size=batch_size, tokens_per_batch=None, max_length=max_length,
            test_fraction=test_fraction, **kwargs,
        )  # fmt: skip
        self.text, self.label = text, label
        self.class_names: list[str] = []
        self.rows: dict[str, list[TextRow]] = {}
        self.numbers: dict[str, list[int]] = {}  # of rows in their table, from 1

    @property
    def num_classes(self) -> int:
        """Number of different labels; known after ``setup``."""
        return len(self.class_names)

    @property
    def longest_text(self) -> int:
        """Tokens of the longest text; known after ``setup``."""
        return max((len(ids) for rows in self.rows.values() for ids, _ in rows), default=0)

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.rows:
            return
        self.tokenizer = tokenizer = tokenizer_of(self)
        found, self.numbers = self.source.read((self.text, self.label), plain=True)
        tables = self.source.limited(found)
        names, classes = labelled(tables, self.numbers, self.label)
        if len(names) < 2:
            raise ConfigError("label", self.label, f"a column with at least two different labels; all are {names[0]!r}")
        unseen = [name for number, name in enumerate(names) if number not in classes["train"]]
        if unseen:
            rank_zero_warn(f"labels without a training row: {', '.join(map(repr, unseen))}")
        _warn_of_copies(tables, self.text)
        self.class_names = names
        for split, table in tables.items():
            texts = [str(row[self.text]) for row in table]
            tokens = _cut(tokenized(texts, tokenizer), tokenizer, self.max_length, split) if texts else []
            self.rows[split] = list(zip(tokens, classes[split], strict=True))
        self.padding = tokenizer.pad_token_id

    def train_dataloader(self) -> ResumableLoader:
        """Batches of rows of similar length, in an order that is drawn anew in every epoch."""
        return self._bucketed("train", training=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Batches of rows of similar length; an empty list without rows."""
        return self._bucketed("val", training=False) if self.rows["val"] else []

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """Batches of rows of similar length; an empty list without rows."""
        return self._bucketed("test", training=False) if self.rows["test"] else []

    def predict_dataloader(self) -> ResumableLoader:
        """The rows of the test (else validation, else training) in the order of their split."""
        split = first_with_rows(self.rows)
        return self._loader(split, self.batching.in_order(len(self.rows[split])), training=False)

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number in its table, from 1."""
        return {"row": self.numbers[first_with_rows(self.rows)][number]}

    def _bucketed(self, split: str, training: bool) -> ResumableLoader:
        plan = self.batching.by_length([len(ids) for ids, _ in self.rows[split]])
        return self._loader(split, plan if training else lambda epoch: plan(0), training)

    def _loader(self, split: str, plan: Plan, training: bool) -> ResumableLoader:
        return self.batching.loader(self.rows[split], plan, partial(collate_labelled, padding=self.padding), training)


def collate_labelled(rows: list[TextRow], padding: int) -> dict[str, Tensor]:
    """Pad token ids on the right to the longest row.

    Example:
        >>> collate_labelled([(torch.tensor([5, 6, 7]), 1), (torch.tensor([8]), 0)], padding=0)
        {'input_ids': tensor([[5, 6, 7],
                [8, 0, 0]]), 'attention_mask': tensor([[1, 1, 1],
                [1, 0, 0]]), 'labels': tensor([1, 0])}
    """
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in rows], batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in rows])}


def _cut(tokens: TokenRows, tokenizer: Any, max_length: int, split: str) -> list[Tensor]:
    """Rows of at most ``max_length`` tokens; a final special token is kept."""
    lengths = tokens.lengths
    long = sum(length > max_length for length in lengths)
    if long:
        rank_zero_warn(
            f"{long} of {len(lengths)} {split} rows are longer than max_length={max_length} tokens and are cut"
        )
    closing = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    cut = []
    for number in range(len(tokens)):
        ids = tokens[number]
        if len(ids) > max_length:
            last = ids[-1:]
            ids = torch.cat([ids[: max_length - 1], last]) if last.item() in closing else ids[:max_length]
        cut.append(ids)
    return cut


def _warn_of_copies(tables: dict[str, list[dict[str, Any]]], text: str) -> None:
    """Warn how many texts of validation and test are also training texts."""
    trained = {row[text] for row in tables["train"]}
    for split in ("val", "test"):
        copies = sum(row[text] in trained for row in tables[split])
        if copies:
            rank_zero_warn(f"{copies} of {len(tables[split])} {split} rows have a text that is also a training row")
