"""What the data modules of images share: splits, loaders and the shape of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import ResumableLoader, make_loader
from lit_ft.sources.splits import check_fractions, split_rows

ImageRow = tuple[Tensor, int]


class ImageRows(pl.LightningDataModule, ABC):
    """Labelled images, or vectors of numbers. A subclass reads them.

    A batch is ``{images, labels}`` of shapes (rows, channels, height, width) or (rows, features), and (rows,).

    Args:
        batch_size: Rows in a batch; None puts all training rows into one batch, in a fixed order (gradient descent
            without noise).
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        max_rows: Train on no more rows than this, drawn with ``seed``.
        seed: Seed of the splits and of the order.
        num_workers: Processes that prepare batches; batches do not depend on it.
    """

    batch_kind: ClassVar[str] = "images"

    def __init__(
        self,
        batch_size: int | None,
        val_fraction: float,
        test_fraction: float,
        max_rows: int | None,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("max_rows", max_rows)):
            if value is not None and value < 1:
                raise ConfigError(name, value, "at least 1, or null")
        check_fractions(val_fraction, test_fraction)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.val_fraction, self.test_fraction, self.max_rows = val_fraction, test_fraction, max_rows
        self.class_names: list[str] = []
        self.rows: dict[str, Sequence[ImageRow]] = {}

    @abstractmethod
    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """All rows, and the names of the classes."""

    @property
    def num_classes(self) -> int:
        """Number of classes; known after ``setup``."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row; known after ``setup``."""
        return tuple(self.rows["train"][0][0].shape)

    def setup(self, stage: str) -> None:
        """Read and split; once, whatever the stage."""
        if self.rows:
            return
        rows, self.class_names = self.read()
        numbers = split_rows(len(rows), self.val_fraction, self.test_fraction, self.seed)
        numbers["train"] = numbers["train"][: self.max_rows]
        if not numbers["train"]:
            raise ConfigError("path", type(self).__name__, "at least one row for training")
        self.rows = {split: Chosen(rows, chosen) for split, chosen in numbers.items()}

    def train_dataloader(self) -> ResumableLoader:
        """Freshly shuffled in every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """In order; no loader where there are no rows."""
        return self._loader("val", self.batch_size or 512) if len(self.rows["val"]) else []

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """In order; no loader where there are no rows."""
        return self._loader("test", self.batch_size or 512) if len(self.rows["test"]) else []

    def predict_dataloader(self) -> ResumableLoader:
        """The rows of the test, in order."""
        return self._loader("test", self.batch_size or 512)

    def _loader(self, split: str, batch_size: int | None, shuffle: bool = False) -> ResumableLoader:
        rows = self.rows[split]
        plan = shuffled_batches(len(rows), batch_size, self.seed, shuffle)
        return make_loader(rows, plan, collate_images, self.seed, self.num_workers, training=shuffle)


class Chosen(Sequence[ImageRow]):
    """Some of the rows, by number.

    Args:
        rows: All rows.
        numbers: Those that are meant.
    """

    def __init__(self, rows: Sequence[ImageRow], numbers: list[int]) -> None:
        self.all, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        return self.all[self.numbers[number]]


def collate_images(rows: list[ImageRow]) -> dict[str, Tensor]:
    """Stack images and labels."""
    return {"images": torch.stack([image for image, _ in rows]), "labels": torch.tensor([label for _, label in rows])}


def standardized(pixels: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all pixels of all images together."""
    return (pixels - pixels.mean()) / pixels.std(correction=0)
