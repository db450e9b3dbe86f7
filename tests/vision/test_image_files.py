"""Files of every kind of number, colour and orientation give the picture that a person sees."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ft.core.errors import ConfigError
from lit_ft.data import ImageFolder
from lit_ft.vision import image_files
from lit_ft.vision.image_files import ImageFiles

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def read(path: Path, channels: int = 3, size: int = 8) -> torch.Tensor:
    return ImageFiles([(path, 0)], size=size, channels=channels)[0][0]


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("16.png", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
        ("16.pgm", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
        ("16.tif", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
        ("float.tif", Image.fromarray(RAMP.astype(np.float32))),
        ("8.png", Image.fromarray((RAMP * 255).round().astype(np.uint8))),
        ("cmyk.tif", Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("CMYK")),
        ("cmyk.jpg", Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("CMYK")),
        ("palette.png", Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("P")),
        ("alpha.png", Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("LA")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_grey_is_grey_whatever_its_type(name: str, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / name)
    expected = torch.from_numpy(RAMP * 2 - 1).float()
    for channels in (1, 3):
        found = read(tmp_path / name, channels)
        assert found.shape == (channels, 8, 8)
        torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=0.05 if "jpg" in name else 0.01)


def test_what_is_transparent_is_white_also_in_a_palette_and_in_grey(tmp_path: Path) -> None:
    dots = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    dots.paste((0, 0, 0, 0), (0, 0, 4, 8))
    dots.save(tmp_path / "colour.png")
    dots.convert("P").save(tmp_path / "palette.png", transparency=dots.convert("P").getpixel((0, 0)))
    grey = Image.new("LA", (8, 8), (0, 255))
    grey.paste((0, 0), (0, 0, 4, 8))
    grey.save(tmp_path / "grey.png")
    for name, solid in (
        ("colour.png", [1.0, -1.0, -1.0]),
        ("palette.png", [1.0, -1.0, -1.0]),
        ("grey.png", [-1.0] * 3),
    ):
        found = read(tmp_path / name)
        assert found[:, 0, 0].tolist() == [1.0] * 3, name
        assert found[:, 0, 7].tolist() == pytest.approx(solid, abs=0.01), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    """As Pillow shows it: the tag says how the stored picture is to be turned."""
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Transpose that undoes each orientation
    upright = Image.fromarray((RAMP * 255).astype(np.uint8))
    undo = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[turns[orientation]]))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    assert torch.equal(read(tmp_path / "photo.png"), read(tmp_path / "upright.png"))


def test_an_animation_is_its_first_picture_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_files._first.cache_clear()
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for name in ("moving.gif", "moving.webp", "moving.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], duration=100)
        assert read(tmp_path / name)[:, 4, 4].tolist() == pytest.approx([1.0, -1.0, -1.0], abs=0.05), name
        said = [line for line in capsys.readouterr().err.splitlines() if "of several frames" in line]
        assert [line.partition(": a ")[0] for line in said] == [str(tmp_path / name)]
        read(tmp_path / name)
        assert not capsys.readouterr().err
    first.save(tmp_path / "still.gif")
    read(tmp_path / "still.gif")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_broken_file_is_named(kind: str, share: float, tmp_path: Path) -> None:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, kind)
    path = tmp_path / f"broken.{kind.lower()}"
    path.write_bytes(content.getvalue()[: int(share * len(content.getvalue()))])
    with pytest.raises(ConfigError, match=f"broken.{kind.lower()}.*; allowed: a whole image"):
        read(path)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("byte.tif", (RAMP * 255).astype(np.float32)), ("minus.tif", (RAMP - 1).astype(np.float32)),
     ("nan.tif", np.full((8, 8), np.nan, np.float32)), ("32.tif", (RAMP * 1000).astype(np.int32))],
)  # fmt: skip
def test_numbers_of_an_unknown_range_are_refused_by_name(name: str, numbers: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(numbers).save(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}, whose numbers go from .*; allowed: images of 8 or 16 bits"):
        read(tmp_path / name)


def test_hidden_and_empty_folders_are_no_classes(tmp_path: Path) -> None:
    for folder in ("10", "9", "cat/old", ".ipynb_checkpoints", "cat/.thumbs", "empty", "deep/empty"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("10/a.png", "9/a.PNG", "cat/old/a.png", ".ipynb_checkpoints/a.png", "cat/.thumbs/a.png", "9/._a.png"):
        Image.new("L", (4, 4)).save(tmp_path / place, "PNG")
    data = ImageFolder(str(tmp_path), image_size=4, val_fraction=0.0, test_fraction=0.0)
    data.setup("fit")
    assert (data.class_names, [label for _, label in data.rows["train"]].count(0)) == (["9", "10", "cat"], 1)
    assert len(data.rows["train"]) == 3
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "cat" / "a.heic").write_text("")
    with pytest.warns(UserWarning, match="2 of 5 files have no class or are no images, and are left out"):
        ImageFolder(str(tmp_path), image_size=4).setup("fit")
