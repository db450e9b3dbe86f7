"""Images of two sources side by side that both tell the class in training, one of them easy to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.vision.image_rows import ImageRow, ImageRows


class SideBySide(ImageRows):
    """An image of an easy source to the left of one of a hard source; two classes.

    The label is the class of the right image. In training the class of the left one, the attribute, agrees with it in a
    share ``correlation`` of the rows: 1 makes it redundant, 0.95 spurious. In validation and test the two are
    independent, so that accuracy there, and a linear probe on features, measure how well the hard one was learnt.
    Images of a split come from the same split of their source.

    A batch is ``{images, labels, groups}`` of shapes (rows, channels, height, 2 height), or (rows, features) with
    ``flat``, (rows,), (rows,). The group is ``2 * label + attribute``: 1 and 2 are the minorities of training. Use
    it with ``GroupedClassifier``, which measures the worst group. All pairs are held in memory.

    Source: built after CIFAR-MNIST and Waterbirds as used in "Sharpness-aware minimization enhances feature quality via
    balanced learning", 2024, for any data that are at hand.

    Args:
        easy: Images on the left, of two classes or grouped by ``easy_classes``.
        hard: Images on the right, of two classes or grouped by ``hard_classes``.
        easy_classes: Classes of the easy source that form each of the two: ``[[0], [1]]`` leaves out the others.
        hard_classes: The same for the hard source: ``[[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]`` are even and odd digits.
        rows: Rows of each split.
        correlation: Share of the training rows in which the two agree, in [0, 1].
        hard_scale: Contrast of the right image, above 0; below 1 makes it harder.
        image_size: Height and width of each image in pixels, to which it is resized; None keeps images as they are.
        batch_size: Rows in a batch; None takes all training rows at once.
        flat: Give vectors instead of images.
        seed: Seed of the pairs and of the order; splits are those of the sources.

    See also: :class:`~lit_ft.methods.GroupedClassifier`, :class:`~lit_ft.metrics.GroupAccuracy`.

    Example:
        >>> from lit_ft.vision.digits import Digits
        >>> even, odd = [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]
        >>> data = SideBySide(Digits(), Digits(seed=1), easy_classes=[[0], [1]], hard_classes=[even, odd], rows=500,
        ...                   correlation=0.9)
        >>> data.setup("fit")
        >>> tuple(next(iter(data.train_dataloader()))["images"].shape)
        (64, 1, 8, 16)
        >>> torch.bincount(torch.tensor([group for *_, group in data.rows["train"]]))  # 1 and 2 are the minorities
        tensor([225,  20,  17, 238])
    """

    def __init__(
        self,
        easy: ImageRows,
        hard: ImageRows,
        easy_classes: list[list[int]] | None = None,
        hard_classes: list[list[int]] | None = None,
        rows: PositiveInt = 1000,
        correlation: ClosedUnitInterval = 1.0,
        hard_scale: PositiveFloat = 1.0,
        image_size: PositiveInt | None = None,
        batch_size: PositiveInt | None = 64,
        flat: bool = False,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        checked(locals())
        if math.isinf(hard_scale):
            raise ConfigError("hard_scale", hard_scale, "a finite number")
        for name, classes in (("easy_classes", easy_classes), ("hard_classes", hard_classes)):
            if classes is not None and (len(classes) != 2 or set(classes[0]) & set(classes[1])):
                raise ConfigError(name, classes, "two lists of classes, none of them in both")
        self.easy, self.hard, self.easy_classes, self.hard_classes = easy, hard, easy_classes, hard_classes
        self.row_count, self.correlation, self.hard_scale, self.flat = rows, correlation, hard_scale, flat
        self.image_size = image_size

    def prepare_data(self) -> None:
        """Prepare both sources."""
        self.easy.prepare_data()
        self.hard.prepare_data()

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """The rows of the hard source."""
        return self.hard.read()

    def setup(self, stage: str) -> None:
        """Draw pairs within each split of the sources; once, whatever the stage."""
        if self.rows:
            return
        self.easy.setup(stage)
        self.hard.setup(stage)
        names = self.hard.class_names
        self.class_names = [" or ".join(names[i] for i in group) for group in self.hard_classes or [[0], [1]]]
        generator = torch.Generator().manual_seed(self.seed)
        self.rows = {
            split: self._pairs(split, self.correlation if split == "train" else 0.5, generator)
            for split in sorted(self.hard.rows)
        }

    @staticmethod
    def collate(rows: list[Any]) -> dict[str, Tensor]:
        """Stack images, labels and groups."""
        images, labels, groups = zip(*rows, strict=True)
        return {"images": torch.stack(images), "labels": torch.tensor(labels), "groups": torch.tensor(groups)}

    def _pairs(self, split: str, agreement: float, generator: torch.Generator) -> list[Any]:
        easy = _pools("easy", self.easy.rows[split], self.easy_classes, split)
        hard = _pools("hard", self.hard.rows[split], self.hard_classes, split)
        channels = max(easy[0][0].shape[0], hard[0][0].shape[0])
        labels = torch.randint(2, (self.row_count,), generator=generator)
        agree = torch.rand(self.row_count, generator=generator) < agreement
        attributes = torch.where(agree, labels, 1 - labels)

        def drawn(pool: list[Tensor]) -> Tensor:
            image = pool[int(torch.randint(len(pool), (), generator=generator))]
            if self.image_size is not None:
                size = (self.image_size, self.image_size)
                image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            return image.expand(channels, -1, -1)

        rows = []
        for attribute, label in zip(attributes.tolist(), labels.tolist(), strict=True):
            left, right = drawn(easy[attribute]), self.hard_scale * drawn(hard[label])
            if left.shape[1] != right.shape[1]:
                raise ConfigError("image_size", None, f"a size for images {left.shape[1]} and {right.shape[1]} high")
            image = torch.cat([left, right], dim=-1)
            rows.append((image.flatten() if self.flat else image, label, 2 * label + attribute))
        return rows


def _pools(name: str, rows: Sequence[ImageRow], classes: list[list[int]] | None, split: str) -> list[list[Tensor]]:
    """The images of each of the two classes, those of a class in the order of its numbers."""
    by_class: dict[int, list[Tensor]] = {}
    for image, label in rows:
        by_class.setdefault(label, []).append(image)
    if classes is None and not set(by_class) <= {0, 1}:
        raise ConfigError(name, f"{len(by_class)} classes", f"two classes, or two lists of them in {name}_classes")
    pools = [[image for number in group for image in by_class.get(number, [])] for group in classes or [[0], [1]]]
    if not all(pools):
        raise ConfigError(name, f"a class without images for {split}", "images of both classes in each split")
    if pools[0][0].ndim != 3:
        raise ConfigError(name, f"rows of shape {tuple(pools[0][0].shape)}", "images: flat stays false in the source")
    return pools
