import numpy as np
import pytest
import torch
from PIL import Image

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits, GaussianClusters, ImageFolder, MNIST5k, NoisyLinear


def ready(module):
    module.prepare_data()
    module.setup("fit")
    return module


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    module = ready(Digits(batch_size=32))
    truth = {tuple(image.ravel().tolist()): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    raw = torch.from_numpy(load_digits().images).float()
    assert module.num_classes == 10
    assert module.input_shape == (1, 8, 8)
    sizes = [len(module.rows[split]) for split in ("train", "val", "test")]
    assert sizes == [1257, 270, 270]
    for batch in module.train_dataloader():
        pixels = (batch["images"] * raw.std(correction=0) + raw.mean()).round().flatten(1)
        assert [truth[tuple(row.tolist())] for row in pixels] == batch["labels"].tolist()


def test_full_batch_is_the_same_batch_in_every_epoch():
    module = ready(Digits(batch_size=None, flat=True, max_rows=100))
    loader = module.train_dataloader()
    (first,) = loader
    loader.sampler.set_epoch(3)
    (second,) = loader
    assert first["images"].shape == (100, 64)
    assert torch.equal(first["images"], second["images"])
    assert sum(len(batch["labels"]) for batch in module.val_dataloader()) == 270


def test_folders_of_images(tmp_path):
    colours = {"blue": (0, 0, 255), "red": (255, 0, 0)}
    for name, colour in colours.items():
        (tmp_path / name / "deeper").mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (7, 5), colour).save(tmp_path / name / "deeper" / f"{i}.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "red" / "clear.png")
    (tmp_path / "red" / "notes.txt").write_text("no image")
    module = ready(ImageFolder(str(tmp_path), image_size=6, val_fraction=0, test_fraction=0))
    assert module.class_names == ["blue", "red"]
    assert module.input_shape == (3, 6, 6)
    assert len(module.rows["train"]) == 21
    expected = {0: [-1.0, -1.0, 1.0], 1: [1.0, -1.0, -1.0]}
    clear = 0
    for image, label in module.rows["train"]:
        mean = image.mean((1, 2)).tolist()
        clear += mean == [1.0, 1.0, 1.0]
        assert mean in (expected[label], [1.0, 1.0, 1.0])
    assert clear == 1, "what is transparent is white"
    assert ready(ImageFolder(str(tmp_path), image_size=4, channels=1)).input_shape == (1, 4, 4)
    (tmp_path / "red" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"broken\.png"):
        list(ready(ImageFolder(str(tmp_path), val_fraction=0, test_fraction=0)).rows["train"])
    with pytest.raises(ConfigError, match="two folders"):
        ready(ImageFolder(str(tmp_path / "red")))
    with pytest.raises(ConfigError, match="exists"):
        ready(ImageFolder(str(tmp_path / "none")))


def test_generated_tasks_hold_their_truth():
    regression = NoisyLinear(rows=64, features=3, noise=0.0, batch_size=10, seed=2)
    for loader in (regression.train_dataloader(), regression.val_dataloader(), regression.test_dataloader()):
        for batch in loader:
            torch.testing.assert_close(batch["inputs"] @ regression.weights, batch["targets"])
    assert not torch.equal(regression.inputs[0], regression.inputs[1])
    assert not torch.equal(NoisyLinear(seed=3).weights, NoisyLinear(seed=2).weights)
    clusters = ready(GaussianClusters(rows=4000, features=8, classes=3, distance=4.0))
    points, labels = zip(*clusters.rows["train"], strict=True)
    points, labels = torch.stack(points), torch.tensor(labels)
    centres = torch.stack([points[labels == label].mean(0) for label in range(3)])
    np.testing.assert_allclose(centres.norm(dim=1), 4.0, atol=0.2)
    np.testing.assert_allclose((points - centres[labels]).std(), 1.0, atol=0.05)
    with pytest.raises(ConfigError, match="classes"):
        GaussianClusters(classes=1)
    with pytest.raises(ConfigError, match="noise"):
        NoisyLinear(noise=-1)


@pytest.mark.real
def test_mnist_is_balanced():
    module = ready(MNIST5k(val_fraction=0, test_fraction=0))
    images, labels = zip(*module.rows["train"], strict=True)
    assert torch.bincount(torch.tensor(labels)).tolist() == [500] * 10
    assert images[0].shape == (1, 28, 28)
    assert abs(torch.stack(images).mean()) < 1e-5


def test_digits_are_grouped_into_classes():
    plain, grouped = (
        Digits(val_fraction=0, test_fraction=0),
        Digits(val_fraction=0, test_fraction=0, classes=[[3, 5], [0]]),
    )
    plain.setup("fit")
    grouped.setup("fit")
    digit_of = {image.numpy().tobytes(): digit for image, digit in plain.rows["train"]}
    found = [(digit_of[image.numpy().tobytes()], label) for image, label in grouped.rows["train"]]
    assert {pair for pair in found} == {(3, 0), (5, 0), (0, 1)}
    assert len(found) == sum(digit in (0, 3, 5) for digit in digit_of.values())
    assert grouped.class_names == ["35", "0"]
    with pytest.raises(ConfigError, match="classes"):
        Digits(classes=[[1, 2], [2]])
