"""Image files as tensors, whatever their numbers, their orientation and their kind of colour."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.running.saying import say

if TYPE_CHECKING:
    from PIL import Image

    from lit_ft.vision.augmentation import Change

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".pgm", ".ppm", ".jfif"}


class ImageFiles(Sequence[Any]):
    """Image files as tensors (channels, size, size), with their label.

    Args:
        files: Path and label of each.
        size: Height and width in pixels.
        channels: 3 or 1.
        mean: Of each channel, of pixels in [0, 1]; None is 0.5, which with ``std`` scales them to [-1, 1].
        std: Standard deviation of each channel, by which pixels are divided; None is 0.5.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (40, 30), "white").save("1.png")
        >>> image, label = ImageFiles([(Path("1.png"), 3)], size=2, channels=1)[0]
        >>> image, label
        (tensor([[[1., 1.],
                 [1., 1.]]]), 3)
    """

    def __init__(
        self,
        files: list[tuple[Path, Any]],
        size: int,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.files, self.size, self.channels, self.mean, self.std = files, size, channels, mean, std

    @property
    def labels(self) -> list[Any]:
        """The label of each file, without reading any."""
        return [label for _, label in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: Any) -> Any:
        return self.changed(number, None)

    def changed(self, number: int, draw: Callable[[tuple[int, int]], Change] | None) -> tuple[Tensor, Any]:
        """One row; ``draw`` gives the change of a picture of a width and height."""
        from PIL import Image

        file, label = self.files[number]
        whole = opened(file)
        change = None if draw is None else draw(whole.size)
        white = Image.new("RGBA", whole.size, "white")
        flat = Image.alpha_composite(white, whole).convert("RGB" if self.channels == 3 else "L")
        box = None if change is None else change.box
        small = flat.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        array = np.asarray(small, dtype=np.float32)
        pixels = torch.from_numpy(array.copy()).reshape(self.size, self.size, self.channels).permute(2, 0, 1)
        pixels = pixels.contiguous()
        if change is not None:
            pixels = 255 * change.of_pixels(pixels / 255)
        if self.mean is None and self.std is None:
            return pixels / 127.5 - 1, label
        mean, std = (torch.tensor(of or [0.5] * self.channels)[:, None, None] for of in (self.mean, self.std))
        return (pixels / 255 - mean) / std, label


def opened(file: Path) -> Image.Image:
    """The picture in a file, upright, in red, green, blue and alpha of 8 bits.

    Grey of 16 bits is scaled to 8, and so are fractions in [0, 1]. Of frames or pages the first is taken, and said.

    Args:
        file: Any image that Pillow can read.

    Raises:
        ConfigError: It cannot be read to its end, or the range of its numbers cannot be known.

    Example:
        >>> from PIL import Image
        >>> Image.fromarray(np.full((4, 4), 65535 // 2, dtype=np.uint16)).save("grey.png")
        >>> opened(Path("grey.png")).getpixel((0, 0))
        (127, 127, 127, 255)
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as found:
            if found.format != "MPO" and getattr(found, "is_animated", False):  # cameras keep previews as frames
                say_of_frames(str(found.format), file)
            upright = ImageOps.exif_transpose(found)
            sixteen = found.format in ("PNG", "PPM")  # their numbers have 16 bits at most
            return _in_bytes(file, upright, sixteen).convert("RGBA")
    except ConfigError:
        raise
    # what Pillow raises depends on the format and on where a file ends
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ConfigError("path", str(file), f"a whole image that Pillow can read: {error}") from error


@cache
def _first(kind: str) -> list[Path]:
    return []


def say_of_frames(kind: str, file: Path) -> None:
    """Say once for each kind of file that only a part of it is read."""
    if not _first(kind):
        _first(kind).append(file)
        say(f"{file}: a {kind} of several frames or pages; of such files the first one is read")


def _in_bytes(file: Path, picture: Image.Image, sixteen: bool) -> Image.Image:
    """A picture of one channel of more than 8 bits as one of 8; others as they are."""
    from PIL import Image

    wide = picture.mode.startswith("I;16") or (picture.mode == "I" and sixteen)
    if not wide and picture.mode not in ("I", "F"):
        return picture
    numbers = np.asarray(picture).astype(np.float64)
    least, most = float(numbers.min()), float(numbers.max())
    full = 65535.0 if wide else 1.0
    if not (least >= 0 and most <= full) or (picture.mode == "I" and not wide):
        given = f"{file}, whose numbers go from {least:g} to {most:g}"
        raise ConfigError("path", given, "images of 8 or 16 bits, or of fractions in [0, 1]")
    return Image.fromarray((numbers * (255 / full)).round().astype(np.uint8), "L")
