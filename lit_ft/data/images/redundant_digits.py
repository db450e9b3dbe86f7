"""Pairs of digits that say the same thing in training, one of them easily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.data.batching import shuffled_batches
from lit_ft.data.images.image_rows import ImageRow, ImageRows, standardized
from lit_ft.data.loader import ResumableLoader, make_loader

EASY = ((0,), (1,))
HARD = ((3, 5), (8, 9))


class RedundantDigits(ImageRows):
    """Two handwritten digits side by side: left 0 or 1, right one of 3 and 5, or one of 8 and 9; two classes.

    The label is the class of the right one. In training the left one agrees with it in a share ``correlation`` of the
    rows: 1 makes it redundant, 0.95 spurious. In validation and test the two are independent, so that accuracy there,
    and a linear probe on features, say how well the hard one was learnt. Each split has digits of its own.

    A batch is ``{images, labels, groups}`` of shapes (rows, 1, 8, 16), or (rows, 128) with ``flat``, (rows,), (rows,).
    The group is ``2 * label + class of the left digit``: 1 and 2 are the minorities of training. Goes with
    ``GroupedClassifier``.

    Source: built after CIFAR-MNIST and Waterbirds as used in "Sharpness-aware minimization enhances feature quality via
    balanced learning", 2024, from the digits of scikit-learn.

    Args:
        rows: Rows of each split.
        correlation: Share of the training rows in which the two agree, in [0, 1].
        hard_scale: Contrast of the right digit, above 0; below 1 makes it harder yet.
        batch_size: Rows in a batch; None takes all training rows at once.
        flat: Give vectors instead of images.
        seed: Seed of the splits, the pairs and the order.
    """

    papers: ClassVar[tuple[str, ...]] = ("A1",)
    batch_kind: ClassVar[str] = "images"

    def __init__(
        self,
        rows: int = 600,
        correlation: float = 1.0,
        hard_scale: float = 1.0,
        batch_size: int | None = None,
        flat: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, 0.25, 0.25, None, seed, num_workers=0)
        if rows < 1:
            raise ConfigError("rows", rows, "at least 1")
        if not 0 <= correlation <= 1:
            raise ConfigError("correlation", correlation, "a share in [0, 1]")
        if not 0 < hard_scale < float("inf"):
            raise ConfigError("hard_scale", hard_scale, "a finite number above 0")
        self.row_count, self.correlation, self.hard_scale, self.flat = rows, correlation, hard_scale, flat

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """The single digits."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images = standardized(torch.from_numpy(found.images).float()).unsqueeze(1)
        return list(zip(images, found.target.tolist(), strict=True)), ["3 or 5", "8 or 9"]

    def setup(self, stage: str) -> None:
        """Split the digits, then draw pairs within each split; once, whatever the stage."""
        if self.rows:
            return
        super().setup(stage)
        generator = torch.Generator().manual_seed(self.seed)
        self.rows = {
            split: self._pairs(digits, self.correlation if split == "train" else 0.5, generator)
            for split, digits in sorted(self.rows.items())
        }

    def _pairs(self, digits: Sequence[ImageRow], agreement: float, generator: torch.Generator) -> list[Any]:
        pools: dict[int, list[Tensor]] = {}
        for image, digit in digits:
            pools.setdefault(digit, []).append(image)
        labels = torch.randint(2, (self.row_count,), generator=generator)
        agree = torch.rand(self.row_count, generator=generator) < agreement
        left = torch.where(agree, labels, 1 - labels)

        def drawn(classes: tuple[tuple[int, ...], ...], number: int) -> Tensor:
            pool = [image for digit in classes[number] for image in pools[digit]]
            return pool[int(torch.randint(len(pool), (), generator=generator))]

        rows = []
        for easy, hard in zip(left.tolist(), labels.tolist(), strict=True):
            image = torch.cat([drawn(EASY, easy), self.hard_scale * drawn(HARD, hard)], dim=-1)
            rows.append((image.flatten() if self.flat else image, hard, 2 * hard + easy))
        return rows

    def _loader(self, split: str, batch_size: int | None, shuffle: bool = False) -> ResumableLoader:
        rows = self.rows[split]
        plan = shuffled_batches(len(rows), batch_size, self.seed, shuffle)
        return make_loader(rows, plan, _collate, self.seed, training=shuffle)


def _collate(rows: list[tuple[Tensor, int, int]]) -> dict[str, Tensor]:
    images, labels, groups = zip(*rows, strict=True)
    return {"images": torch.stack(images), "labels": torch.tensor(labels), "groups": torch.tensor(groups)}
