"""Random changes of pictures in training: which, and how much, is a function of the seed, the epoch and the row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from lit_ft.core.checks import Range, checked

Part = Annotated[float, Range(above=0, high=1)]
Jitter = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are changed; each picture anew in every epoch.

    Args:
        flip: Whether half of the pictures are mirrored, left and right.
        crop: Least share of the area of a picture that is kept; 1 cuts nothing. The share is uniform in [crop, 1], the
            ratio of the sides changes by up to 4/3, and the rest is cut off anywhere.
        jitter: Brightness, contrast and saturation are multiplied by factors that are uniform in [1 - jitter, 1 +
            jitter].

    See also: :class:`~lit_ft.data.ImageFolder`.

    Example:
        >>> change = Augmentation(crop=0.5).draw((40, 30), seed=0, epoch=1, row=7)
        >>> change == Augmentation(crop=0.5).draw((40, 30), seed=0, epoch=1, row=7)
        True
        >>> Augmentation(flip=False, crop=1.0, jitter=0.0).draw((40, 30), seed=0, epoch=1, row=7)
        Change(box=(0.0, 0.0, 40.0, 30.0), mirrored=False, factors=(1.0, 1.0, 1.0))
        >>> Augmentation(crop=0.0)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: Augmentation.crop: given 0.0; allowed: a finite number, 1 or less and above 0
    """

    flip: bool = True
    crop: Part = 1.0
    jitter: Jitter = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing."""
        checked({"self": self, **vars(self)})

    @classmethod
    def of(cls, given: Augmentation | Mapping[str, Any] | None) -> Augmentation | None:
        """As it is, or from a mapping; None is none."""
        return cls(**given) if isinstance(given, Mapping) else given

    def draw(self, size: tuple[int, int], seed: int, epoch: int, row: int) -> Change:
        """The change of one picture in one epoch.

        Args:
            size: Width and height of the picture.
            seed: Seed of the data.
            epoch: Number of the epoch.
            row: Number of the picture.
        """
        draw = np.random.default_rng((seed, epoch, row))
        share, ratio, left, top, mirror, *factors = draw.random(8).tolist()  # as many whatever the settings
        area = (self.crop + (1 - self.crop) * share) * size[0] * size[1]
        wide = math.exp((2 * ratio - 1) * math.log(4 / 3)) if self.crop < 1 else 1.0
        stretch = math.sqrt(wide * size[0] / size[1])
        width, height = (min(float(most), one) for most, one in zip(size, _sides(area, stretch), strict=True))
        if self.crop == 1:
            width, height = float(size[0]), float(size[1])
        x, y = left * (size[0] - width), top * (size[1] - height)
        jitter = tuple(1 + self.jitter * (2 * factor - 1) for factor in factors)
        return Change((x, y, x + width, y + height), self.flip and mirror < 0.5, jitter)  # type: ignore[arg-type]


def _sides(area: float, stretch: float) -> tuple[float, float]:
    return math.sqrt(area) * stretch, math.sqrt(area) / stretch


@dataclass(frozen=True)
class Change:
    """One drawn change of a picture.

    Args:
        box: What is kept: left, top, right and bottom in pixels.
        mirrored: Whether left and right change sides.
        factors: Of brightness, contrast and saturation.

    Example:
        >>> Change((0.0, 0.0, 2.0, 1.0), True, (0.5, 1.0, 1.0)).of_pixels(torch.tensor([[[0.2, 1.0]]]))
        tensor([[[0.5000, 0.1000]]])
    """

    box: tuple[float, float, float, float]
    mirrored: bool
    factors: tuple[float, float, float]

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] of the box, shape (channels, height, width), with the rest of the change."""
        pixels = pixels.flip(-1) if self.mirrored else pixels
        brightness, contrast, saturation = self.factors
        pixels = (brightness * pixels).clamp(0, 1)
        pixels = _apart(pixels, _grey(pixels).mean(), contrast)
        return _apart(pixels, _grey(pixels), saturation)


def _apart(pixels: Tensor, middle: Tensor, factor: float) -> Tensor:
    return pixels if factor == 1 else (middle + factor * (pixels - middle)).clamp(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    """Luminance, shape (1, height, width), as ITU-R BT.601 has it."""
    if len(pixels) == 1:
        return pixels
    return (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * pixels).sum(0, keepdim=True)
