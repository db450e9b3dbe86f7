"""Images in one folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.checks import checked
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.problems import CLASS
from lit_ft.running.saying import say
from lit_ft.sources.splits import NEW, SPLITS, Share, own_names
from lit_ft.sources.targets import targets
from lit_ft.vision.image_files import SUFFIXES
from lit_ft.vision.image_rows import ImageRow
from lit_ft.vision.picture_rows import PictureRows


class ImageFolder(PictureRows):
    """Images from ``path/CLASS/**/NAME.png`` (or jpg, bmp, gif, webp, avif, tif, pgm, ppm), read when they are used.

    Folders of splits are recognised: ``path/train/CLASS/**/NAME.png``, with ``val`` (``validation``, ``valid``,
    ``dev``) and ``test`` beside it; a line says so. See :class:`~lit_ft.vision.picture_rows.PictureRows` for what is
    done to a picture. Classes are called as their folders, see :func:`~lit_ft.sources.class_names.class_name`, and
    numbered in order, numbers by size, then texts. Hidden files and folders are no data, and a folder without images is
    no class; other files are left out with a warning that counts them.

    Args:
        path: Folder with one folder for each class, or with folders of splits of this kind.
        val_fraction: Share of the training pictures for validation, in [0, 1), also where there is a folder for it;
            None is that folder, or 0.1 where there is none.
        test_fraction: Share of the training pictures for the test, likewise.
        problem_type: ``regression`` where the names of the folders are numbers to predict; else they are classes.
        predict_path: Folder with pictures to predict, at any depth, which need no class; None predicts the test.
        **kwargs: As in :class:`~lit_ft.vision.picture_rows.PictureRows`.

    See also: :class:`~lit_ft.methods.ImageClassifier`.

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
        val_fraction: Share | None = None,
        test_fraction: Share | None = None,
        problem_type: Literal["single_label_classification", "regression"] = "single_label_classification",
        predict_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        val, test = (0.1 if share is None else share for share in (val_fraction, test_fraction))
        super().__init__(val_fraction=val, test_fraction=test, **kwargs)
        checked(locals())
        self.path, self.problem_type, self.predict_path = path, problem_type, predict_path
        shares = {"val": val_fraction, "test": test_fraction}
        self._own = [split for split, share in shares.items() if share is None]
        self._splits: list[str] = []  # of each file, where there are folders of splits

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """List the files; the images are read when they are used."""
        folder = existing("path", self.path)
        if not folder.is_dir():
            raise ConfigError("path", self.path, "a folder, with one folder for each class in it")
        splits = split_folders(folder)
        wanted = {split: folder / name for split, name in splits.items() if split == "train" or split in self._own}
        roots = wanted or {"": folder}
        found = [(split, file, root) for split, root in roots.items() for file in _visible(root)]
        rows = [(split, file, root) for split, file, root in found if _is_image(file) and file.parent != root]
        others = len(found) - len(rows)
        if others:
            rank_zero_warn(f"{others} of {len(found)} files have no class or are no images, and are left out")
        folders = [{"folder": file.relative_to(root).parts[0]} for _, file, root in rows]
        if not rows:
            raise ConfigError("path", self.path, "a folder with images in at least two folders, one for each class")
        numbers = {"": range(1, len(rows) + 1)}
        labels = targets({"": folders}, numbers, "folder", self.problem_type, argument="path")
        names, values = labels.names, labels.values[""]
        if self.problem_type == CLASS and len(names) < 2:
            raise ConfigError("path", self.path, "a folder with images in at least two folders, one for each class")
        self._splits = [split for split, _, _ in rows if split]
        if splits:
            counts = ", ".join(
                f"{root.name} ({self._splits.count(split):,} pictures)" for split, root in wanted.items()
            )
            unread = [name for split, name in splits.items() if split not in wanted]
            say(f"{self.path}: read its folders {counts}" + (f"; not used: {', '.join(unread)}" if unread else ""))
            trained = {label for split, label in zip(self._splits, values, strict=True) if split == "train"}
            if unseen := [name for number, name in enumerate(names) if number not in trained]:
                rank_zero_warn(f"classes without a training picture: {', '.join(map(repr, unseen))}")
        return self.pictures([file for _, file, _ in rows], values), names

    def drawn(self, n: int) -> dict[str, list[int]]:
        """The folders of splits, and shares of the training pictures for those that have none."""
        if not self._splits:
            return super().drawn(n)
        own = {split: [i for i, one in enumerate(self._splits) if one == split] for split in SPLITS}
        train = own["train"]
        shares = self.splits.draw(len(train), val=not own["val"], test=not own["test"])
        return {split: own[split] if split != "train" and own[split] else [train[i] for i in shares[split]]
                for split in SPLITS}  # fmt: skip

    def setup(self, stage: str) -> None:
        """List the files; of those to be predicted, only these are looked at."""
        if stage != "predict" or self.predict_path is None or self.rows:
            return super().setup(stage)
        folder = existing("predict_path", self.predict_path)
        found = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES] if folder.is_dir() else [folder]
        if not found:
            raise ConfigError(
                "predict_path", self.predict_path, f"a folder with images ({', '.join(sorted(SUFFIXES))})"
            )
        self.rows = {NEW: self.pictures(found, [None] * len(found))}

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number, and its file in the folder."""
        row = super().place_of(number)["row"]
        folder = existing("path", self.path if self.predicted != NEW else str(self.predict_path))
        inside = self.files[row - 1].relative_to(folder).as_posix()
        return {"row": row, "file": folder.name if inside == "." else inside}


def split_folders(folder: Path) -> dict[str, str]:
    """The folders of splits in a folder by what they stand for; none where its folders are classes.

    They are splits where they are called so and have folders of their own with images, and nothing but splits is beside
    them: ``train`` is a class among vehicles.

    Raises:
        ConfigError: It cannot be told, or there is no ``train`` among the splits.

    Example:
        >>> for place in ("a/train/cat", "a/train/dog", "a/valid/cat", "b/train", "b/bus"):
        ...     Path(place).mkdir(parents=True)
        ...     Path(place, "1.png").touch()
        >>> split_folders(Path("a")), split_folders(Path("b"))
        ({'train': 'train', 'val': 'valid'}, {})
        >>> Path("a/train/1.png").touch()
        >>> split_folders(Path("a"))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'a'; allowed: ... train has images beside its folders
    """
    folders = [place for place in sorted(folder.iterdir()) if place.is_dir() and not place.name.startswith(".")]
    folders = [place for place in folders if any(_is_image(file) for file in _visible(place))]
    called = own_names(place.name for place in folders)
    others = [place.name for place in folders if place.name not in called.values()]
    if not called or (others and len(called) < 2):
        return {}
    allowed = "a folder with one folder for each class, or with train, val and test of that kind in it and nothing else"
    if others:
        raise ConfigError("path", str(folder), f"{allowed}: beside {', '.join(called.values())} is {others[0]!r}")
    if "train" not in called:
        raise ConfigError("path", str(folder), f"{allowed}: it has {', '.join(called.values())} and no train")
    for name in called.values():
        if any(_is_image(file) for file in (folder / name).iterdir() if file.is_file()):
            raise ConfigError("path", str(folder), f"{allowed}: {name} has images beside its folders")
    return called


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _visible(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below, in the order of their names; hidden ones and folders left out."""
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            yield from _visible(place)
        else:
            yield place
