"""Images in one folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError, existing
from lit_ft.sources.class_names import labelled
from lit_ft.vision.image_files import SUFFIXES, ImageFiles
from lit_ft.vision.image_rows import ImageRow, ImageRows


class ImageFolder(ImageRows):
    """Images from ``path/CLASS/**/NAME.png`` (or jpg, bmp, gif, webp, avif, tif, pgm, ppm), read when they are used.

    Each is turned upright as its EXIF data say, put on white where it is transparent, resized to a square, and scaled
    to [-1, 1]; of an animation, the first picture is taken. Classes are called as their folders, see
    :func:`~lit_ft.sources.class_names.class_name`, and numbered in order, numbers by size, then texts. Hidden files and
    folders are no data, and a folder without images is no class; other files are left out with a warning that counts
    them.

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
        self.files: list[Path] = []

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """List the files; the images are read when they are used."""
        folder = existing("path", self.path)
        if not folder.is_dir():
            raise ConfigError("path", self.path, "a folder, with one folder for each class in it")
        files = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES and file.parent != folder]
        others = sum(1 for _ in _visible(folder)) - len(files)
        if others:
            rank_zero_warn(f"{others} of {others + len(files)} files have no class or are no images, and are left out")
        rows = [{"folder": file.relative_to(folder).parts[0]} for file in files]
        names, classes = labelled({"": rows}, {"": range(1, len(rows) + 1)}, "folder", "path")
        if len(names) < 2:
            raise ConfigError("path", self.path, "a folder with images in at least two folders, one for each class")
        self.files = files
        return ImageFiles(list(zip(files, classes[""], strict=True)), self.image_size, self.channels), names

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its file in ``path``."""
        row = super().place_of(number)["row"] - 1
        return {"file": self.files[row].relative_to(existing("path", self.path)).as_posix()}


def _visible(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below, in the order of their names; hidden ones and folders left out."""
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            yield from _visible(place)
        else:
            yield place
