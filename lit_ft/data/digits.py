"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lit_ft.data.image_rows import ImageRow, ImageRows, standardized


class Digits(ImageRows):
    """Handwritten digits, 10 classes, from scikit-learn: real data without a download.

    Pixels have mean 0 and variance 1 over the whole set. Images are (1, 8, 8), or vectors of 64 with ``flat``.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (the test set).

    Args:
        batch_size: Rows in a batch; None takes all training rows at once.
        flat: Give vectors instead of images.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        max_rows: Train on no more rows than this.
        seed: Seed of the splits and of the order.
        num_workers: Processes that prepare batches.
    """

    papers: ClassVar[tuple[str, ...]] = ()
    batch_kind: ClassVar[str] = "images"

    def __init__(
        self,
        batch_size: int | None = 64,
        flat: bool = False,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        max_rows: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, max_rows, seed, num_workers)
        self.flat = flat

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """From scikit-learn."""
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = standardized(torch.from_numpy(found.images).float()).unsqueeze(1)
        images = pixels.flatten(1) if self.flat else pixels
        return list(zip(images, found.target.tolist(), strict=True)), [str(digit) for digit in range(10)]
