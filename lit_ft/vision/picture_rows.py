"""The base of data modules of picture files: size, scale and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lit_ft.core.checks import PositiveFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.vision.augmentation import Augmentation
from lit_ft.vision.image_files import ImageFiles
from lit_ft.vision.image_rows import Chosen, ImageRow, ImageRows


class PictureRows(ImageRows):
    """Pictures in files, read when they are used; a subclass implements ``read`` with ``self.pictures``.

    Each is turned upright as its EXIF data say, put on white where it is transparent, resized to a square, and scaled;
    of an animation, the first picture is taken.

    Args:
        image_size: Height and width in pixels.
        channels: 3 for colour, 1 for grey.
        mean: Of each channel, of pixels in [0, 1]; None is 0.5, which with ``std`` scales them to [-1, 1].
        std: Standard deviation of each channel, by which pixels are divided; None is 0.5.
        augment: How training pictures are changed, anew in every epoch, e.g. ``{flip: true, crop: 0.6, jitter: 0.2}``;
            see :class:`~lit_ft.vision.augmentation.Augmentation`. None is as they are.
        batch_size: Rows in a batch; None takes all training rows at once.

    See also: :class:`~lit_ft.data.ImageFolder`.
    """

    def __init__(
        self,
        image_size: PositiveInt = 224,
        channels: Literal[1, 3] = 3,
        mean: list[float] | None = None,
        std: list[PositiveFloat] | None = None,
        augment: Augmentation | None = None,
        batch_size: PositiveInt | None = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        checked(locals())
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise ConfigError(name, values, f"null, or {channels} numbers, one for each channel")
        self.image_size, self.channels, self.mean, self.std = image_size, channels, mean, std
        self.augment = Augmentation.of(augment)
        self.files: list[Path] = []

    def pictures(self, files: Sequence[Path], labels: Sequence[Any]) -> ImageFiles:
        """Rows of these files with these labels; they are remembered as ``files``."""
        self.files = list(files)
        return ImageFiles(
            list(zip(files, labels, strict=True)), self.image_size, self.channels, mean=self.mean, std=self.std
        )

    def training_rows(self) -> Sequence[ImageRow]:
        """The training rows, changed anew in every epoch where there is an augmentation."""
        rows = self.rows["train"]
        return Augmented(rows, self.augment, self.seed) if self.augment and isinstance(rows, Chosen) else rows


class Augmented(Sequence[ImageRow]):
    """Chosen pictures, changed as the seed, the epoch and the number of the picture say.

    Args:
        rows: Chosen rows of :class:`~lit_ft.vision.image_files.ImageFiles`.
        augmentation: How they are changed.
        seed: Seed of the changes.
        epoch: Number of the epoch.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (40, 30), "white").save("1.png")
        >>> rows = Chosen(ImageFiles([(Path("1.png"), 3)], size=2, channels=1), [0])
        >>> changed = Augmented(rows, Augmentation(jitter=0.5), seed=0)
        >>> torch.equal(changed.of_epoch(1)[0][0], changed.of_epoch(1)[0][0])
        True
        >>> torch.equal(changed.of_epoch(1)[0][0], changed.of_epoch(2)[0][0])
        False
    """

    def __init__(self, rows: Chosen, augmentation: Augmentation, seed: int, epoch: int = 0) -> None:
        self.rows, self.augmentation, self.seed, self.epoch = rows, augmentation, seed, epoch

    def of_epoch(self, epoch: int) -> Augmented:
        """The rows as an epoch has them."""
        return Augmented(self.rows, self.augmentation, self.seed, epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        row = self.rows.numbers[number]
        return self.rows.all.changed(row, lambda size: self.augmentation.draw(size, self.seed, self.epoch, row))  # type: ignore[attr-defined]
