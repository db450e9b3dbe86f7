"""The base of data modules of token examples: splits, the cache, loaders by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.checks import Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import Plan
from lit_ft.sources.class_names import class_name, class_names
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import NEW, first_with_rows
from lit_ft.sources.table_data import TableData
from lit_ft.sources.table_files import row_ids
from lit_ft.sources.tables import Row
from lit_ft.tokens.batch import LanguageBatch
from lit_ft.tokens.packing import check_packing, packed_batches
from lit_ft.tokens.segments import Encoded, Segment, encode_all, fill, special_fields
from lit_ft.tokens.token_table import TokenTable, collate_packed, collate_padded, token_table
from lit_ft.tokens.tokenized import tokenizer_fingerprint
from lit_ft.tokens.tokenizer_of import tokenizer_of

ExampleLength = Annotated[int, Range(low=2)]
"""Tokens of an example, the first of which is no target."""


class TokenData(TableData):
    r"""Rows of a table as token examples; a subclass makes an example from a row in ``encode_rows``.

    A padded batch is ``{input_ids, attention_mask, weights, rows}``, a packed one ``{input_ids, position_ids, weights,
    rows}``, see :class:`~lit_ft.tokens.batch.LanguageBatch`; ``tasks`` is added if ``task_column`` is given. ``rows``
    are numbers of rows within the split. Without a Trainer, set ``data.tokenizer = model.tokenizer`` before ``setup``.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        max_length: Longest example in tokens, at least 2; of packed rows, their length.
        packing: Whether several examples share a row in training, so that almost nothing is padded; ``batch_size`` then
            counts rows of ``max_length`` tokens. On a CPU, batches of similar lengths are faster.
        task_column: Column with the name of the task, for losses that balance tasks.

    See also: :class:`~lit_ft.data.Instructions`, :class:`~lit_ft.data.Mixture`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> class Lines(TokenData):
        ...     def cache_key(self):
        ...         return []
        ...     def encode_rows(self, rows, numbers, tokenizer):
        ...         return encode_filled([Segment("{line}{eos}", weight=1.0)], rows, numbers, tokenizer)
        >>> _ = Path("lines.csv").write_text("line\nab\nabc\nabcdefgh\n")
        >>> data = Lines("lines.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> {name: tuple(values.shape) for name, values in next(iter(data.train_dataloader())).items()}
        {'input_ids': (3, 9), 'attention_mask': (3, 9), 'weights': (3, 9), 'rows': (3,)}
    """

    batch: ClassVar[type] = LanguageBatch
    new: bool = False
    """Whether there are rows that are only to be predicted, beside those of the table."""

    def __init__(
        self,
        path: str,
        max_length: ExampleLength = 512,
        packing: bool = False,
        task_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, max_length=max_length, **kwargs)
        checked(locals())
        budget = self.batching.tokens_per_batch
        if packing and budget is not None and budget < max_length:
            raise ConfigError("tokens_per_batch", budget, f"at least one packed row: {max_length}")
        self.packing, self.task_column = packing, task_column
        self.task_names: list[str] = []
        self.numbers: dict[str, Sequence[int]] = {}  # of rows in their table, from 1; empty for generated rows
        self.examples: dict[str, TokenTable] = {}
        self._evaluated: dict[str, Sequence[Row]] = {}
        self._ids: dict[str, dict[int, Row]] = {}  # by the number of the row in its table

    # what a subclass defines

    def required_columns(self) -> Sequence[str]:
        """Columns that every row must have."""
        return ()

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """One example for each row; ``numbers`` are those of the rows in their table, for messages."""
        raise NotImplementedError(f"{type(self).__name__} defines encode_rows(rows, numbers, tokenizer)")

    def cache_key(self) -> Sequence[str]:
        """Every setting that tokens depend on, besides rows, tokenizer and ``max_length``."""
        raise NotImplementedError(f"{type(self).__name__} defines cache_key()")

    # what all share

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.examples:
            return
        self.tokenizer = self._tokenizer()
        tables = self._new_tables() if stage == "predict" and self.new else self._tables()
        if self.task_column is not None:
            tasks = (class_name(row[self.task_column]) for table in tables.values() for row in table)
            self.task_names = class_names(tasks)
        self.examples = self._encoded(tables)
        if NEW in tables and NEW not in self.examples:
            raise ConfigError("predict_path", "no rows", "at least one row to predict")
        if NEW not in tables and "train" not in self.examples:
            raise ConfigError("path", self.source.path, "at least one row for training")
        self._checked = False

    def whole_answer(self, split: str, row: int) -> list[int] | None:
        """Tokens of a row from its first target on, as they are before ``max_length`` cuts them; None if it does not.

        Args:
            split: The split.
            row: Number of the row within the split, from 0.
        """
        if not self._is_full(split, row):
            return None
        rows, limit = self._evaluated.get(split), self.max_length
        if rows is None:
            return None
        try:
            self.max_length = 2**30
            (example,) = self.encode_rows([rows[row]], [self._numbers(split, rows)[row]], self.tokenizer)
        finally:
            self.max_length = limit
        first = next((i for i, weight in enumerate(example.weights) if weight), len(example))
        return example.input_ids[first:]

    def _is_full(self, split: str, row: int) -> bool:
        table = self.examples[split]
        place = int(torch.searchsorted(table.rows, row))
        return table.lengths[place] >= self.max_length

    def _encoded(self, tables: Mapping[str, Sequence[Row]]) -> dict[str, TokenTable]:
        kept = {split: rows for split, rows in tables.items() if rows and split != "train"}
        self._evaluated = kept or dict(tables)  # for their whole answers
        key = [type(self).__name__, tokenizer_fingerprint(self.tokenizer), str(self.max_length), *self.cache_key()]
        return {
            split: token_table(
                rows, self._encode, key, split, self.max_length, self._numbers(split, rows), self._tasks(rows)
            )
            for split, rows in tables.items()
            if rows
        }

    def _tasks(self, rows: Sequence[Row]) -> list[int] | None:
        if self.task_column is None:
            return None
        return [self.task_names.index(class_name(row[self.task_column])) for row in rows]

    def _encode(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[Encoded]:
        return self.encode_rows(rows, numbers, self.tokenizer)

    def _numbers(self, split: str, rows: Sequence[Row]) -> Sequence[int]:
        return self.numbers.get(split, range(1, len(rows) + 1))[: len(rows)]

    def _tokenizer(self) -> Any:
        return tokenizer_of(self)

    def _tables(self) -> dict[str, list[Row]]:
        required = [*self.required_columns(), *([self.task_column] if self.task_column else [])]
        tables, numbers = self.source.read(required)
        self.numbers.update(numbers)
        self._ids = {split: row_ids(rows, numbers[split]) for split, rows in tables.items() if split != "train"}
        return self.source.limited(tables)

    def _new_tables(self) -> dict[str, list[Row]]:
        """The rows that are only to be predicted, under ``NEW``."""
        raise NotImplementedError(f"{type(self).__name__} defines _new_tables()")

    @property
    def longest_text(self) -> int:
        """Tokens of the longest example; known after ``setup``."""
        return max((max(table.lengths, default=0) for table in self.examples.values()), default=0)

    @property
    def padding(self) -> int:
        """The padding token; any token will do, as weights mark the targets."""
        return self.tokenizer.pad_token_id or 0

    def train_dataloader(self) -> ResumableLoader:
        """Batches of examples of similar length, or packed ones, in an order that is drawn anew in every epoch."""
        if not self.packing:
            return self._loader("train", self._buckets("train"), training=True)
        self._check_packing()
        budget = self.batching.tokens_per_batch
        rows = self.batch_size if budget is None else budget // self.max_length
        plan = packed_batches(self.examples["train"].lengths, self.max_length, rows, self.seed)
        return self._loader("train", plan, training=True, packed=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Batches of examples of similar length, in a fixed order; an empty list without rows."""
        return self._evaluation("val")

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """As for validation."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ResumableLoader:
        """New rows, else those of the test (else validation, else training), in the order of their split."""
        split = self.predicted
        return self._loader(split, self._in_order(split), training=False)

    def _in_order(self, split: str) -> Plan:
        rows = self.rows_of(split)
        return self.batching.in_order(len(rows), rows.lengths)

    @property
    def predicted(self) -> str:
        """The split whose rows are predicted."""
        return NEW if NEW in self.examples else first_with_rows(self.examples)

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number in its table, from 1, and its ``id``."""
        row = self.source_row(self.predicted, number)
        numbers = self.numbers.get(self.predicted)
        place = row + 1 if numbers is None else numbers[row]
        return {"row": place, **self._ids.get(self.predicted, {}).get(place, {})}

    def rows_of(self, split: str) -> Any:
        """What a loader of a split reads, by number: examples, pairs or questions."""
        return self.examples[split]

    def source_row(self, split: str, number: int) -> int:
        """The row of the split, from 0, that something in ``rows_of(split)`` was made of: some rows are left out."""
        return int(self.examples[split].rows[number])

    def _evaluation(self, split: str) -> ResumableLoader | list[Any]:
        if split not in self.examples:
            return []
        plan = self._buckets(split)
        return self._loader(split, lambda epoch: plan(0), training=False)

    def _buckets(self, split: str) -> Plan:
        return self.batching.by_length(self.examples[split].lengths)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        collate: Any = partial(collate_padded, padding=self.padding)
        if packed:
            collate = partial(collate_packed, padding=self.padding, capacity=self.max_length)
        return self.batching.loader(self.examples[split], plan, collate, training)

    def _check_packing(self) -> None:
        network = getattr(getattr(self.trainer, "lightning_module", None), "network", None)
        if self._checked:
            return
        if network is None:
            rank_zero_warn(
                "packing is not checked: there is no module with a `network` whose documents could be compared"
            )
            return
        check_packing(network, len(self.tokenizer))
        self._checked = True


def encode_filled(
    template: Sequence[Segment],
    rows: Sequence[Row],
    numbers: Sequence[int],
    tokenizer: Any,
    max_length: int | None = None,
) -> list[Encoded]:
    """The tokens of a template filled with each row; ``numbers`` are those of the rows, for messages.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> template = [Segment("{question}"), Segment("{answer}{eos}", weight=1.0)]
        >>> (example,) = encode_filled(template, [{"question": "1+1=", "answer": "2"}], [1], byte_tokenizer())
        >>> example.weights
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    specials = special_fields(tokenizer)
    filled = [fill(template, row, specials, number) for row, number in zip(rows, numbers, strict=True)]
    return encode_all(tokenizer, filled, max_length)
