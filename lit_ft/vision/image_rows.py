"""The base of data modules of images: splits, loaders and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeInt, PositiveInt, checked
from lit_ft.core.data_module import LitData
from lit_ft.core.errors import ConfigError
from lit_ft.core.problems import ProblemType
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.label_tensors import class_counts, label_tensor
from lit_ft.sources.loader import Batching, ResumableLoader
from lit_ft.sources.splits import NEW, Share, Splits, first_with_rows
from lit_ft.vision.batch import ImagesBatch

ImageRow = tuple[Tensor, Any]
_EVALUATED_AT_ONCE = 512  # rows of a batch in validation and test if training takes all rows at once


class ImageRows(LitData, ABC):
    """Labelled images, or vectors of numbers; a subclass implements ``read``.

    A batch is ``{images, labels}`` of shapes (rows, channels, height, width) or (rows, features), and (rows,), see
    :class:`~lit_ft.vision.batch.ImagesBatch`.

    Args:
        batch_size: Rows in a batch; None puts all training rows into one batch, in a fixed order (gradient descent
            without noise).
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        max_rows: Train on no more rows than this, drawn with ``seed``.
        seed: Seed of the splits and of the order.
        num_workers: Processes that prepare batches; batches do not depend on it.

    See also: :class:`~lit_ft.data.Digits`, :class:`~lit_ft.data.GaussianClusters`.

    Example:
        >>> class Signs(ImageRows):
        ...     def read(self):
        ...         numbers = torch.linspace(-1, 1, 10)
        ...         return [(x[None], int(x > 0)) for x in numbers], ["negative", "positive"]
        >>> data = Signs(batch_size=4, val_fraction=0.2, test_fraction=0.2)
        >>> data.setup("fit")
        >>> {split: len(rows) for split, rows in data.rows.items()}, data.input_shape, data.num_classes
        ({'val': 2, 'test': 2, 'train': 6}, (1,), 2)
        >>> next(iter(data.val_dataloader()))
        {'images': tensor([[-0.1111],
                [ 0.3333]]), 'labels': tensor([0, 1])}
    """

    batch: ClassVar[type] = ImagesBatch
    problem_type: ProblemType | None = None
    """What a label is, where it may be something else than one class."""

    def __init__(
        self,
        batch_size: PositiveInt | None = 64,
        val_fraction: Share = 0.1,
        test_fraction: Share = 0.1,
        max_rows: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        checked(locals())
        self.splits = Splits(val_fraction, test_fraction, max_rows, seed=seed)
        self.batching = Batching(batch_size, seed=seed, num_workers=num_workers)
        self.seed = seed
        self.class_names: list[str] = []
        self.rows: dict[str, Sequence[ImageRow]] = {}

    @property
    def batch_size(self) -> int | None:
        """Rows in a batch; Lightning's search for a batch size sets it."""
        return self.batching.batch_size

    @batch_size.setter
    def batch_size(self, value: int | None) -> None:
        self.batching.batch_size = value

    @abstractmethod
    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """All rows, and the names of the classes."""

    @staticmethod
    def collate(rows: list[Any]) -> dict[str, Tensor]:
        """Stack images and labels."""
        images, labels = zip(*rows, strict=True)
        named = {} if None in labels else {"labels": label_tensor(labels)}  # new rows have none
        return {"images": torch.stack(images), **named}

    @property
    def num_classes(self) -> int | None:
        """Number of classes; known after ``setup``, but not by rows that are only to be predicted."""
        return len(self.class_names) or None

    @property
    def train_rows(self) -> int:
        """Number of training rows; known after ``setup``."""
        return len(self.rows.get("train", ()))

    @property
    def class_counts(self) -> list[int]:
        """Training rows of each class; known after ``setup``."""
        rows = self.rows["train"]
        assert isinstance(rows, Chosen)
        labels = getattr(rows.all, "labels", None) or [row[1] for row in rows.all]
        return class_counts([labels[number] for number in rows.numbers], self.num_classes or 0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row; known after ``setup``."""
        return tuple(self.rows["train" if "train" in self.rows else NEW][0][0].shape)

    def setup(self, stage: str) -> None:
        """Read and split; once, whatever the stage."""
        if self.rows:
            return
        rows, self.class_names = self.read()
        numbers = self.drawn(len(rows))
        if not numbers["train"]:
            raise ConfigError("path", type(self).__name__, "at least one row for training")
        self.rows = {split: Chosen(rows, chosen[: self.splits.limit(split)]) for split, chosen in numbers.items()}

    def drawn(self, n: int) -> dict[str, list[int]]:
        """The numbers of the rows of each split, of ``n`` rows that were read, without limits."""
        return self.splits.draw(n)

    def training_rows(self) -> Sequence[ImageRow]:
        """What training reads; a sequence with ``of_epoch(number)`` is asked for the rows of an epoch."""
        return self.rows["train"]

    def train_dataloader(self) -> ResumableLoader:
        """Freshly shuffled in every epoch."""
        rows = self.training_rows()
        return self.batching.loader(rows, self.batching.shuffled(len(rows)), self.collate)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Rows in order; an empty list without rows."""
        return self._in_order("val") if len(self.rows["val"]) else []

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """Rows in order; an empty list without rows."""
        return self._in_order("test") if len(self.rows["test"]) else []

    def predict_dataloader(self) -> ResumableLoader:
        """New rows, else those of the test (else validation, else training), in order."""
        return self._in_order(self.predicted)

    @property
    def predicted(self) -> str:
        """The split whose rows are predicted."""
        return NEW if NEW in self.rows else first_with_rows(self.rows)

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number among all rows, from 1."""
        rows = self.rows[self.predicted]
        return {"row": 1 + (rows.numbers[number] if isinstance(rows, Chosen) else number)}

    def _in_order(self, split: str) -> ResumableLoader:
        rows, size = self.rows[split], self.batch_size or _EVALUATED_AT_ONCE
        plan = shuffled_batches(len(rows), size, shuffle=False)
        return self.batching.loader(rows, plan, self.collate, training=False)


class Chosen(Sequence[ImageRow]):
    """Some of the rows, by number.

    Args:
        rows: All rows.
        numbers: Numbers of the chosen rows.

    Example:
        >>> list(Chosen([("a", 0), ("b", 1), ("c", 0)], numbers=[2, 0]))
        [('c', 0), ('a', 0)]
    """

    def __init__(self, rows: Sequence[ImageRow], numbers: list[int]) -> None:
        self.all, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        return self.all[self.numbers[number]]


def standardized(pixels: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all pixels of all images together.

    Example:
        >>> pixels = standardized(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        >>> pixels.mean(), pixels.std(correction=0)
        (tensor(0.), tensor(1.0000))
    """
    return (pixels - pixels.mean()) / pixels.std(correction=0)
