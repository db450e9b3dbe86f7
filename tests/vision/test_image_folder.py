"""Folders of splits, scale and augmentation of pictures."""

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from lit_ft.core.errors import ConfigError
from lit_ft.data import ImageFolder
from lit_ft.methods import ImageClassifier
from lit_ft.testing import assert_resumes
from lit_ft.vision.augmentation import Augmentation


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def folder(place: Path, *names: str, each: int = 2) -> str:
    for number, name in enumerate(names):
        for i in range(each):
            picture(place / name / f"{i}.png", 10 * number + i)
    return str(place)


def ready(path: str, **arguments: Any) -> ImageFolder:
    data = ImageFolder(path, image_size=4, **arguments)
    data.setup("fit")
    return data


def places(data: ImageFolder, split: str) -> list[str]:
    return [data.files[i].relative_to(data.path).as_posix() for i in data.rows[split].numbers]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("validation", "testing"), ("dev", "Test")])
def test_folders_of_splits_are_used_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], val: str, test: str
) -> None:
    path = folder(tmp_path, "train/cat", "train/dog", f"{val}/cat", f"{val}/dog/deep", f"{test}/dog")
    data = ready(path)
    assert data.class_names == ["cat", "dog"]
    assert set(places(data, "train")) == {f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)}
    assert places(data, "val") == [f"{val}/{name}/{i}.png" for name in ("cat", "dog/deep") for i in range(2)]
    assert data.place_of(0) == {"row": 9, "file": f"{test}/dog/0.png"}
    assert f"read its folders train (4 pictures), {val} (4 pictures), {test} (2 pictures)" in capsys.readouterr().err


def test_a_split_without_a_folder_is_a_share_of_train(tmp_path: Path) -> None:
    path = folder(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", each=5)
    data = ready(path)
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 9, "val": 1, "test": 10}
    assert places(data, "val")[0].startswith("train/")
    written = ready(path, val_fraction=0.2, test_fraction=0.3)
    assert {split: len(rows) for split, rows in written.rows.items()} == {"train": 5, "val": 2, "test": 3}
    assert {place.split("/")[0] for split in written.rows for place in places(written, split)} == {"train"}


def test_classes_that_are_called_as_splits_are(tmp_path: Path) -> None:
    assert ready(folder(tmp_path, "train", "bus", "tram")).class_names == ["bus", "train", "tram"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["train", "val"], "train has images beside its folders"),
        (["train/cat", "train", "val/cat"], "train has images beside its folders"),
        (["val/cat", "test/cat"], "it has val, test and no train"),
        (["train/cat", "train/dog", "val/cat", "more/cat"], "beside train, val is 'more'"),
        (["train/cat", "val/cat", "valid/cat"], "given 'val and valid'; allowed: one of them"),
        (["train/cat", "val/cat"], "at least two folders"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        ready(folder(tmp_path, *names))


def test_a_class_without_a_training_picture_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path, "train/cat", "train/dog", "val/cow")
    with pytest.warns(UserWarning, match="classes without a training picture: 'cow'"):
        assert ready(path).class_names == ["cat", "cow", "dog"]


def test_mean_and_standard_deviation(tmp_path: Path) -> None:
    path = folder(tmp_path, "cat", "dog")
    plain, scaled = ready(path), ready(path, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    pixels = (plain.rows["train"][0][0] + 1) / 2
    expected = (pixels - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    torch.testing.assert_close(scaled.rows["train"][0][0], expected)
    torch.testing.assert_close(ready(path, mean=[0.5] * 3).rows["train"][0][0], plain.rows["train"][0][0])
    for wrong in ({"mean": [0.5]}, {"std": [0.5, 0.5, 0.0]}, {"channels": 1, "std": [0.5] * 3}):
        with pytest.raises(ConfigError, match=r"ImageFolder\.(mean|std)"):
            ready(path, **wrong)


def test_augmentation_is_a_function_of_seed_epoch_and_row(tmp_path: Path) -> None:
    path, augment = folder(tmp_path, "cat", "dog", each=6), {"flip": True, "crop": 0.5, "jitter": 0.3}

    def by_file(epoch: int, **arguments: Any) -> dict[str, torch.Tensor]:
        data = ready(path, **{"augment": augment, "batch_size": 4, **arguments})
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        images = torch.cat([batch["images"] for batch in loader])
        order = [row for rows in loader.sampler.batches(epoch) for row in rows]
        return {places(data, "train")[row]: image for row, image in zip(order, images, strict=True)}

    first, again = by_file(1), by_file(1, batch_size=3)
    assert all(torch.equal(first[name], again[name]) for name in first), "whatever the batches"
    for other in (by_file(2), by_file(1, augment=None)):
        assert not any(torch.equal(first[name], other[name]) for name in first)
    plain, changed = ready(path), ready(path, augment=augment)
    assert torch.equal(next(iter(plain.val_dataloader()))["images"], next(iter(changed.val_dataloader()))["images"])
    none = by_file(1, augment={"flip": False, "crop": 1.0, "jitter": 0.0})
    assert all(torch.allclose(none[name], image, atol=1e-6) for name, image in by_file(1, augment=None).items())


def test_a_run_that_resumes_sees_the_same_changes(tmp_path: Path) -> None:
    path = folder(tmp_path / "pictures", "cat", "dog", each=6)

    def module() -> ImageClassifier:
        return ImageClassifier({"config": {"model_type": "mlp", "width": 4}})

    def data() -> ImageFolder:
        return ImageFolder(path, image_size=4, augment=Augmentation(crop=0.5, jitter=0.3), batch_size=3)

    assert_resumes(pl.Callback, tmp_path / "run", crash_at=5, max_epochs=2, make_module=module, make_data=data)


def test_each_change_does_what_it_says() -> None:
    changes = [Augmentation(crop=0.5).draw((40, 30), 0, epoch, 3) for epoch in range(300)]
    sizes = [(right - left, bottom - top) for left, top, right, bottom in (change.box for change in changes)]
    shares = [width * height / 1200 for width, height in sizes]
    assert 0.4 < min(shares) < 0.55 < 0.95 < max(shares) <= 1
    assert all(left >= 0 and top >= 0 and right <= 40 + 1e-9 and bottom <= 30 + 1e-9
               for left, top, right, bottom in (change.box for change in changes))  # fmt: skip
    assert 0.4 < sum(change.mirrored for change in changes) / 300 < 0.6
    factors = torch.tensor([Augmentation(jitter=0.2).draw((4, 4), 0, epoch, 0).factors for epoch in range(300)])
    assert (factors.min(), factors.max()) == (pytest.approx(0.8, abs=0.01), pytest.approx(1.2, abs=0.01))
    assert torch.corrcoef(factors.T).fill_diagonal_(0).abs().max() < 0.2, "drawn for themselves"
