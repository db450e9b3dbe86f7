"""Images in one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError, existing
from lit_ft.vision.image_rows import ImageRow, ImageRows

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


class ImageFolder(ImageRows):
    """Images from ``path/CLASS/**/NAME.png`` (or jpg, bmp, gif, webp, tif), read with Pillow when they are used.

    Each is put on white where it is transparent, resized to a square, and scaled to [-1, 1].

    Args:
        path: Folder with one folder for each class.
        image_size: Height and width in pixels.
        channels: 3 for colour, 1 for grey.
        batch_size: Rows in a batch; None takes all training rows at once.

    Example:
        >>> from PIL import Image
        >>> for name, colour in (("dark", "black"), ("light", "white")):
        ...     (Path("photos") / name).mkdir(parents=True)
        ...     Image.new("RGB", (40, 30), colour).save(f"photos/{name}/1.png")
        >>> data = ImageFolder("photos", image_size=8, val_fraction=0.0, test_fraction=0.0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["images"].shape), data.class_names, batch["labels"], batch["images"].mean((1, 2, 3))
        ((2, 3, 8, 8), ['dark', 'light'], tensor([0, 1]), tensor([-1.,  1.]))
    """

    def __init__(
        self,
        path: str,
        image_size: PositiveInt = 224,
        channels: Literal[1, 3] = 3,
        batch_size: PositiveInt | None = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        checked(locals())
        self.path, self.image_size, self.channels = path, image_size, channels

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """List the files; the images are read when they are used."""
        folder = existing("path", self.path)
        names = sorted(place.name for place in folder.iterdir() if place.is_dir())
        files = [
            (file, number)
            for number, name in enumerate(names)
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in _SUFFIXES
        ]
        if len({number for _, number in files}) < 2:
            raise ConfigError("path", self.path, "a folder with images in at least two folders, one for each class")
        return ImageFiles(files, self.image_size, self.channels), names


class ImageFiles(Sequence[Any]):
    """Image files as tensors (channels, size, size) in [-1, 1], with their class.

    Args:
        files: Path and class of each.
        size: Height and width in pixels.
        channels: 3 or 1.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (40, 30), "white").save("1.png")
        >>> image, label = ImageFiles([(Path("1.png"), 3)], size=2, channels=1)[0]
        >>> image, label
        (tensor([[[1., 1.],
                 [1., 1.]]]), 3)
    """

    def __init__(self, files: list[tuple[Path, int]], size: int, channels: int) -> None:
        self.files, self.size, self.channels = files, size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: Any) -> Any:
        file, label = self.files[number]
        return self._image(file), label

    def _image(self, file: Path) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as opened:
                whole = opened.convert("RGBA")
        except UnidentifiedImageError as error:
            raise ConfigError("path", str(file), "an image that Pillow can read") from error
        white = Image.new("RGBA", whole.size, "white")
        flat = Image.alpha_composite(white, whole).convert("RGB" if self.channels == 3 else "L")
        pixels = np.asarray(flat.resize((self.size, self.size), Image.Resampling.BILINEAR), dtype=np.float32)
        image = torch.from_numpy(pixels.copy()).reshape(self.size, self.size, self.channels)
        return image.permute(2, 0, 1).contiguous() / 127.5 - 1
