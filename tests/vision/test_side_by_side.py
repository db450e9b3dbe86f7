"""Pairs from two sources whose every pixel says where it is from."""

import pytest
import torch
from PIL import Image

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits, ImageFolder, SideBySide
from lit_ft.vision.image_rows import ImageRows


class Numbered(ImageRows):
    """Images of one value each, ``number of the row + offset``; the class is the number modulo ``classes``."""

    def __init__(self, offset, classes, size, channels=1):
        super().__init__(8, 0.2, 0.3, None, seed=1, num_workers=0)
        self.offset, self.classes, self.shape = offset, classes, (channels, size, size)

    def read(self):
        rows = [(torch.full(self.shape, float(i + self.offset)), i % self.classes) for i in range(180)]
        return rows, [f"c{i}" for i in range(self.classes)]


def ready(**arguments):
    data = SideBySide(**{"easy": Numbered(0, 2, 4), "hard": Numbered(1000, 6, 4, 3), "hard_classes": [[0, 2], [5]],
                         "rows": 500, "seed": 3, **arguments})  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("correlation", [0.0, 0.9, 1.0])
def test_each_half_is_an_image_of_its_class_its_source_and_its_split(correlation):
    data = ready(correlation=correlation)
    assert data.class_names == ["c0 or c2", "c5"]
    assert data.input_shape == (3, 4, 8)
    seen = {}
    for split, rows in data.rows.items():
        attributes = []
        for image, label, group in rows:
            assert image.unique().numel() == 2
            easy, hard = int(image[0, 0, 0]), int(image[0, 0, 7]) - 1000
            assert (image[..., :4] == easy).all()
            assert (image[..., 4:] == hard + 1000).all()
            assert hard % 6 in ([0, 2], [5])[label]
            assert group == 2 * label + easy % 2
            attributes.append(easy % 2 == label)
            seen.setdefault(split, set()).update({easy, hard + 1000})
        wanted, slack = (correlation, 0.04) if split == "train" else (0.5, 0.07)
        assert sum(attributes) / 500 == pytest.approx(wanted, abs=slack)
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())), "no split shares an image"


def test_sizes_are_made_one_and_contrast_is_that_of_the_hard_image():
    data = ready(easy=Numbered(0, 2, 3), hard=Numbered(1000, 2, 8), hard_classes=None, image_size=5, hard_scale=0.5)
    for image, _, _ in data.rows["train"]:
        assert image.shape == (1, 5, 10)
        easy, hard = image[0, 0, 0].item(), image[0, 0, 9].item()
        torch.testing.assert_close(image[0], torch.tensor([[easy] * 5 + [hard] * 5] * 5))
        assert 500 <= hard < 590
    batch = next(iter(ready(flat=True, batch_size=7).train_dataloader()))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "images": (7, 3 * 4 * 8), "labels": (7,), "groups": (7,)}  # fmt: skip


def test_digits_beside_pictures_of_a_folder(tmp_path):
    for name, colour in {"animals": (0, 90, 0), "town": (90, 0, 0)}.items():
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (9, 7), tuple(c + i for c in colour)).save(tmp_path / name / f"{i}.png")
    folder = ImageFolder(str(tmp_path), image_size=12, val_fraction=0.3, test_fraction=0.3)
    data = ready(easy=Digits(), easy_classes=[[0], [1]], hard=folder, hard_classes=None, image_size=12, rows=40)
    assert data.class_names == ["animals", "town"]
    for image, label, _ in data.rows["train"]:
        assert image.shape == (3, 12, 24)
        assert torch.equal(image[0, :, :12], image[2, :, :12])  # a grey digit
        mean = image[:, :, 12:].mean((1, 2))
        assert (mean[0] > mean[1]) == bool(label)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"rows": 0}, "rows"), ({"correlation": 1.1}, "correlation"), ({"hard_scale": 0.0}, "hard_scale"),
     ({"image_size": 0}, "image_size"), ({"easy_classes": [[0], [0]]}, "easy_classes"),
     ({"hard_classes": [[0]]}, "hard_classes"), ({"hard_classes": None}, "two classes"),
     ({"easy_classes": [[0], [7]]}, "without images"), ({"easy": Numbered(0, 2, 5)}, "image_size"),
     ({"easy": Digits(flat=True), "easy_classes": [[0], [1]]}, "flat")],
)  # fmt: skip
def test_refuses(arguments, match):
    with pytest.raises(ConfigError, match=match):
        ready(**arguments)
