import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits, RedundantDigits


def splits(**arguments):
    data = RedundantDigits(rows=400, **arguments)
    data.setup("fit")
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    return {name: {key: torch.cat([batch[key] for batch in loader]) for key in ("images", "labels", "groups")}
            for name, loader in loaders.items()}  # fmt: skip


def left(rows):
    return rows["groups"] % 2


@pytest.mark.parametrize("correlation", [0.0, 0.9, 1.0])
def test_left_agrees_as_often_as_asked_in_training_alone(correlation):
    found = splits(correlation=correlation)
    agreement = {name: (left(rows) == rows["labels"]).float().mean().item() for name, rows in found.items()}
    assert agreement["train"] == pytest.approx(correlation, abs=0.04)
    assert agreement["val"] == pytest.approx(0.5, abs=0.08)
    assert agreement["test"] == pytest.approx(0.5, abs=0.08)
    assert all(torch.equal(rows["groups"] // 2, rows["labels"]) for rows in found.values())


def test_images_are_the_digits_that_the_labels_say_and_no_split_shares_one():
    digits = Digits(val_fraction=0, test_fraction=0)
    digits.setup("fit")
    known = {image.numpy().tobytes(): digit for image, digit in digits.rows["train"]}
    seen = {}
    for name, rows in splits().items():
        right, others = rows["images"][..., 8:].contiguous(), rows["images"][..., :8].contiguous()
        hard = [known[image.numpy().tobytes()] for image in right]
        easy = [known[image.numpy().tobytes()] for image in others]
        assert [digit in (8, 9) for digit in hard] == rows["labels"].bool().tolist()
        assert set(hard) == {3, 5, 8, 9}
        assert easy == left(rows).tolist()
        seen[name] = {image.numpy().tobytes() for image in (*right, *others)}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))


def test_contrast_of_the_right_digit():
    plain, weak = splits()["train"]["images"], splits(hard_scale=0.5)["train"]["images"]
    assert torch.equal(weak[..., 8:], 0.5 * plain[..., 8:])
    assert torch.equal(weak[..., :8], plain[..., :8])


@pytest.mark.parametrize(("name", "value"), [("rows", 0), ("correlation", 1.1), ("hard_scale", 0.0)])
def test_refuses(name, value):
    with pytest.raises(ConfigError, match=name):
        RedundantDigits(**{name: value})
