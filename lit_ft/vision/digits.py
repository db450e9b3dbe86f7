"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lit_ft.core.checks import PositiveInt
from lit_ft.core.errors import ConfigError
from lit_ft.sources.splits import Share
from lit_ft.vision.image_rows import ImageRow, ImageRows, standardized


class Digits(ImageRows):
    """Handwritten digits, 10 classes, from scikit-learn: real data without a download.

    Pixels have mean 0 and variance 1 over the whole set. Images are (1, 8, 8), or vectors of 64 with ``flat``.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (the test set).

    Args:
        batch_size: Rows in a batch; None takes all training rows at once.
        flat: Give vectors instead of images.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        classes: Digits of each class: ``[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]`` are low and high, ``[[5], [6]]`` leaves
            out the other eight. None makes each digit a class.

    See also: :class:`~lit_ft.methods.ImageClassifier`, :class:`~lit_ft.data.MNIST5k`.

    Example:
        >>> data = Digits(batch_size=8, classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.class_names, tuple(batch["images"].shape), batch["labels"].tolist()
        (['01234', '56789'], (8, 1, 8, 8), [0, 1, 1, 0, 0, 0, 0, 1])
    """

    def __init__(
        self,
        batch_size: PositiveInt | None = 64,
        flat: bool = False,
        val_fraction: Share = 0.15,
        test_fraction: Share = 0.15,
        classes: list[list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, val_fraction=val_fraction, test_fraction=test_fraction, **kwargs)
        given = [digit for group in classes or () for digit in group]
        if classes is not None and (len(classes) < 2 or len(set(given)) < len(given) or not set(given) <= {*range(10)}):
            raise ConfigError("classes", classes, "two or more lists of digits from 0 to 9, none of them twice")
        self.flat, self.classes = flat, classes or [[digit] for digit in range(10)]

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """Read the images from scikit-learn."""
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = standardized(torch.from_numpy(found.images).float()).unsqueeze(1)
        images = pixels.flatten(1) if self.flat else pixels
        class_of = {digit: number for number, group in enumerate(self.classes) for digit in group}
        rows = zip(images, found.target.tolist(), strict=True)
        names = ["".join(map(str, group)) for group in self.classes]
        return [(image, class_of[digit]) for image, digit in rows if digit in class_of], names
