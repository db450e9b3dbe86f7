"""Texts, or pairs of texts, with a label each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.problems import CLASS, CLASSES, NUMBER, ProblemType
from lit_ft.running.saying import say
from lit_ft.sources.batching import Plan
from lit_ft.sources.class_names import class_name
from lit_ft.sources.label_tensors import label_tensor
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import NEW, Share, first_with_rows
from lit_ft.sources.table_data import TableData
from lit_ft.sources.table_files import row_id
from lit_ft.sources.tables import Row
from lit_ft.sources.targets import targets
from lit_ft.tokens.token_table import warn_of_cuts
from lit_ft.tokens.tokenized import ShortenedRows, TokenRows, tokenized
from lit_ft.tokens.tokenizer_of import tokenizer_of

TextRow = tuple[Any, ...]
"""Token ids, label, and of pairs the types of the tokens where there are any."""


class TextRows(Sequence[TextRow]):
    """Rows of tokens beside their labels.

    Args:
        tokens: Ids, and types where there are any, of each row; None is no row.
        labels: Label of each row.

    Example:
        >>> TextRows(None, []).sizes
        tensor([], dtype=torch.int64)
    """

    def __init__(self, tokens: ShortenedRows | None, labels: Sequence[Any]) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> Tensor:
        """Tokens of each row."""
        return torch.zeros(0, dtype=torch.int64) if self.tokens is None else self.tokens.sizes

    def __getitem__(self, row: Any) -> Any:
        if self.tokens is None:
            raise IndexError(row)
        ids, *types = self.tokens[row]
        return (ids, self.labels[row], *types)

    def __add__(self, other: Sequence[TextRow]) -> list[TextRow]:
        return [*self, *other]


class LabelledText(TableData):
    r"""Texts and what is predicted of them, from any table: one class, any number of classes, or a number.

    A batch is ``{input_ids, attention_mask, labels}`` of shapes (rows, tokens), (rows, tokens), (rows,), padded on the
    right to its longest row, see :class:`~lit_ft.classification.batches.LabelledTextBatch`. A batch has rows of similar
    length. The tokenizer is that of the method, without a Trainer ``data.tokenizer``. A class is called as
    :func:`~lit_ft.sources.class_names.class_name` says; classes are numbered in order, numbers by size, then texts.

    Warns, with counts, of rows that were cut and what they lose, of texts that occur in two splits, and of labels that
    look alike.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        text: Column with the text.
        text_pair: Column with a second text (the hypothesis to a premise); both are encoded as the tokenizer encodes
            pairs.
        label: Column with the label.
        problem_type: What a label is: ``single_label_classification``, ``multi_label_classification`` or
            ``regression``; None is any number of classes where cells are lists or a ``separator`` is given, else one.
        separator: What stands between the classes of a cell.
        predict_path: Table with rows to predict, which need no label; None predicts those of the test.
        batch_size: Rows in a batch.
        max_length: Longest row in tokens, special tokens included; longer ones are cut at the end, of a pair the longer
            text first. ``auto`` is the longest of all rows, up to what the tokenizer says its network can read.
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
        predict_path: str | None = None,
        batch_size: PositiveInt = 32,
        max_length: PositiveInt | Literal["auto"] = 128,
        test_fraction: Share | None = None,
        text_pair: str | None = None,
        problem_type: ProblemType | None = None,
        separator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, batch_size=batch_size, tokens_per_batch=None, test_fraction=test_fraction,
            max_length=max_length if isinstance(max_length, int) else 1, **kwargs,
        )  # fmt: skip
        checked(locals())
        if separator is not None and problem_type in (CLASS, NUMBER):
            raise ConfigError("separator", separator, f"null for {problem_type}")
        self.max_length: Any = max_length  # a number once it was chosen from the data
        self.text, self.text_pair, self.label = text, text_pair, label
        self.problem_type, self.separator, self.predict_path = problem_type, separator, predict_path
        self._asked: list[str] | None = None
        self.class_names: list[str] = []
        self.class_counts: list[int] = []  # of training rows
        self.rows: dict[str, TextRows] = {}
        self.numbers: dict[str, list[int]] = {}  # of rows in their table, from 1
        self._told: dict[int, dict[str, Any]] = {}  # by the number in its table, what is said of a row to predict

    @property
    def num_classes(self) -> int | None:
        """Number of different labels; known after ``setup``, but not by rows that are only to be predicted."""
        return len(self.class_names) or None

    @property
    def train_rows(self) -> int:
        """Number of training rows; known after ``setup``."""
        return len(self.rows.get("train", ()))

    @property
    def longest_text(self) -> int:
        """Tokens of the longest row; known after ``setup``."""
        return max((int(rows.sizes.max()) for rows in self.rows.values() if len(rows)), default=0)

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.rows:
            return
        self.tokenizer = tokenizer = tokenizer_of(self)
        self.padding = tokenizer.pad_token_id or 0  # any token will do: the mask says what is read
        texts = [self.text, *([self.text_pair] if self.text_pair else [])]
        if stage == "predict" and (self.predict_path is not None or self._asked is not None):
            return self._set_up_new(texts)
        several = self.problem_type == CLASSES or self.separator is not None  # a row may have none
        found, self.numbers = self.source.read(texts if several else [*texts, self.label], plain=texts)
        tables = self.source.limited(found)
        labels = targets(
            tables, self.numbers, self.label, self.problem_type, self.separator, places=self.source.paths()
        )
        names = labels.names
        if labels.problem_type == CLASS and len(names) < 2:
            raise ConfigError("label", self.label, f"a column with at least two different labels; all are {names[0]!r}")
        self.class_counts = labels.counts("train")
        unseen = [name for name, count in zip(names, self.class_counts, strict=True) if not count]
        if unseen:
            rank_zero_warn(f"labels without a training row: {', '.join(map(repr, unseen))}")
        _warn_of_copies(tables, texts)
        self.class_names, self.problem_type = names, labels.problem_type
        self._encode(tables, labels.values, texts)
        if stage == "predict":
            self._tell(tables[self.predicted], self.numbers[self.predicted], texts)

    def _encode(
        self, tables: Mapping[str, Sequence[Row]], labels: Mapping[str, Sequence[Any]], texts: Sequence[str]
    ) -> None:
        cells = {split: [[str(row[name]) for row in table] for name in texts] for split, table in tables.items()}
        tokens = {split: tokenized(own[0], self.tokenizer, *own[1:]) for split, own in cells.items() if own[0]}
        self._limit(tokens)
        for split in tables:
            some = split in tokens
            rows = ShortenedRows(tokens[split], self.tokenizer, self.max_length, *cells[split]) if some else None
            self.rows[split] = TextRows(rows, labels[split])

    def ask(self, texts: list[str]) -> None:
        """Predict these texts, in place of the rows of a table."""
        if self.text_pair is not None:
            allowed = "rows of two texts, by --data.predict_path FILE: this run reads pairs"
            raise ConfigError("--text", texts[0], allowed)
        self._asked = texts

    def _set_up_new(self, texts: Sequence[str]) -> None:
        """Rows that are only to be predicted: of the others, which may be gone, nothing is read."""
        if self._asked is not None:
            table = [{self.text: text} for text in self._asked]
        else:
            table = self.source.table(str(self.predict_path), texts, plain=texts)
        if not table:
            raise ConfigError("predict_path", self.predict_path, "a table with at least one row")
        self.numbers = {NEW: list(range(1, len(table) + 1))}
        self._encode({NEW: table}, {NEW: [None] * len(table)}, texts)
        self._tell(table, self.numbers[NEW], texts, self.label)

    def _tell(self, table: Sequence[Row], numbers: Sequence[int], texts: Sequence[str], label: str = "") -> None:
        """Note what predictions say of rows beside what is predicted: an id, the texts, a label that is known."""
        for row, number in zip(table, numbers, strict=False):
            said = row.get(label)
            parts = said.split(self.separator) if self.separator and isinstance(said, str) else said
            known = [class_name(one) for one in parts] if isinstance(parts, list) else class_name(parts)
            told = {"text": str(row[texts[0]])} | {name: str(row[name]) for name in texts[1:]}
            self._told[number] = {**row_id(row), **told, **({"expected": known} if known else {})}

    @property
    def predicted(self) -> str:
        """The split whose rows are predicted."""
        return NEW if NEW in self.rows else first_with_rows(self.rows)

    def _limit(self, tokens: Mapping[str, TokenRows]) -> None:
        """Settle ``max_length``, and say what it cuts."""
        lengths = {split: rows.lengths for split, rows in tokens.items()}
        special = self.tokenizer.num_special_tokens_to_add(pair=self.text_pair is not None)
        if self.max_length == "auto":
            longest = max(max(found) for found in lengths.values())
            self.max_length = min(longest, self.tokenizer.model_max_length)
            of = (
                "as many as the longest row has"
                if self.max_length == longest
                else f"what {self.tokenizer.name_or_path} reads"
            )
            say(f"{self.source.path}: max_length is {self.max_length} tokens, {of}")
        elif self.text_pair is not None and self.max_length < special + 2:
            raise ConfigError("max_length", self.max_length, f"{special + 2} or more, for two texts and special tokens")
        if self.text_pair is not None and special == 0:
            rank_zero_warn(
                "the tokenizer puts nothing between the texts of a pair: the network sees where one ends by its words"
            )
        for split, found in lengths.items():
            warn_of_cuts(found, self.max_length, split)

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
        """The rows of ``predict_path``, else of the test (else validation, else training), in their order."""
        split = self.predicted
        return self._loader(split, self.batching.in_order(len(self.rows[split])), training=False)

    def place_of(self, number: int) -> dict[str, Any]:
        """What a row of ``predict_dataloader`` is: its number in its table, from 1, its ``id`` and its text."""
        row = self.numbers[self.predicted][number]
        return {"row": row, **self._told.get(row, {})}

    def _bucketed(self, split: str, training: bool) -> ResumableLoader:
        plan = self.batching.by_length(self.rows[split].sizes.tolist())
        return self._loader(split, plan if training else lambda epoch: plan(0), training)

    def _loader(self, split: str, plan: Plan, training: bool) -> ResumableLoader:
        return self.batching.loader(self.rows[split], plan, partial(collate_labelled, padding=self.padding), training)


def collate_labelled(rows: list[TextRow], padding: int) -> dict[str, Tensor]:
    """Pad token ids on the right to the longest row; rows without labels give none.

    Example:
        >>> collate_labelled([(torch.tensor([5, 6, 7]), 1), (torch.tensor([8]), 0)], padding=0)
        {'input_ids': tensor([[5, 6, 7],
                [8, 0, 0]]), 'attention_mask': tensor([[1, 1, 1],
                [1, 0, 0]]), 'labels': tensor([1, 0])}
    """
    ids = pad_sequence([ids for ids, *_ in rows], batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(ids) for ids, *_ in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    labels = [label for _, label, *_ in rows]
    batch = {"input_ids": ids, "attention_mask": mask}
    if None not in labels:
        batch["labels"] = label_tensor(labels)
    if len(rows[0]) > 2:
        batch["token_type_ids"] = pad_sequence([types for *_, types in rows], batch_first=True)
    return batch


def _warn_of_copies(tables: Mapping[str, Sequence[Row]], texts: Sequence[str]) -> None:
    """Warn how many texts of validation and test are also training texts."""
    of = itemgetter(*texts)
    trained = set(map(of, tables["train"]))
    for split in ("val", "test"):
        copies = sum(of(row) in trained for row in tables[split])
        if copies:
            rank_zero_warn(f"{copies} of {len(tables[split])} {split} rows have a text that is also a training row")
