"""The methods, data modules and metrics of this family in small."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lit_ft.data import Digits, ImageFolder, LabelledImages, MNIST5k, RedundantDigits, SideBySide
from lit_ft.methods import (
    CertifiedClassifier,
    ConcatRepresentations,
    DistilledRepresentations,
    DistributionRegularized,
    GroupedClassifier,
    ImageClassifier,
    IndependentMembers,
    LeaveOneOutNeighbours,
)
from lit_ft.metrics import CertifiedAccuracy, GroupAccuracy
from lit_ft.vision.augmentation import Augmentation
from tests.example import MLP, OfMetric, OfRun, drawn

FLAT: Any = {"config": MLP}
CNN: Any = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True, "dropout": 0.2}}
# three batches and two steps an epoch: it dies inside the first step of the third
THIRD = {"max_epochs": 3, "crash_at": 7}


def digits(flat: bool = False) -> Digits:
    return Digits(flat=flat, max_rows=120, batch_size=40)


def written(folder: str) -> None:
    for name in ("one", "two"):
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for i in range(24):
            pixels = drawn(100 * len(name) + i)(5, 5, 3, below=256).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(Path(folder, name, f"{i}{name}.png"))


def labelled_images() -> LabelledImages:
    written("named")
    rows = [f"{name}/{i}{name}.png,{('a', 'a;b', '', 'b')[i % 4]}" for name in ("one", "two") for i in range(24)]
    Path("named/table.csv").write_text("\n".join(["file_name,label", *rows]))
    sizes = {"image_size": 6, "batch_size": 4, "max_rows": 16}
    return LabelledImages("named/table.csv", separator=";", augment=Augmentation(crop=0.5, jitter=0.2), **sizes)


def images() -> ImageFolder:
    written("images")
    return ImageFolder("images", image_size=6, batch_size=4, max_rows=16)


def side_by_side() -> SideBySide:
    return SideBySide(Digits(), Digits(), [[0], [1]], [[3], [7]], rows=80, correlation=0.9, batch_size=10)


def full_batch() -> Digits:
    return Digits(batch_size=None, flat=True, max_rows=50)


EXAMPLES = {
    "CertifiedAccuracy": OfMetric(
        lambda: CertifiedAccuracy(0.5), lambda n: (drawn(n)(6, below=2), drawn(n)(6), drawn(n + 9)(6, below=2))
    ),
    "CertifiedClassifier": OfRun(lambda: CertifiedClassifier(FLAT), lambda: digits(flat=True), THIRD),
    "ConcatRepresentations": OfRun(lambda: ConcatRepresentations(CNN, num_members=2), digits, THIRD),
    "ConcatRepresentations, all are trained": OfRun(
        lambda: ConcatRepresentations(CNN, num_members=2, train="all"), digits, THIRD
    ),
    "Digits": OfRun(lambda: ImageClassifier(CNN), lambda: Digits(batch_size=16, max_rows=64)),
    "Digits, one batch": OfRun(
        lambda: ImageClassifier(FLAT, loss="squared_error"),
        full_batch,
        {"max_epochs": 8, "crash_at": 7, "accumulate_grad_batches": 1},
    ),
    "DistilledRepresentations": OfRun(lambda: DistilledRepresentations(CNN, num_members=2), digits, THIRD),
    "DistributionRegularized": OfRun(
        lambda: DistributionRegularized(CNN, memory=70, turn_every_n_steps=2), digits, THIRD
    ),
    "GroupAccuracy": OfMetric(lambda: GroupAccuracy(2), lambda n: (drawn(n)(6, 3), drawn(n)(6, 2, below=2))),
    "GroupedClassifier": OfRun(
        lambda: GroupedClassifier(FLAT),
        lambda: RedundantDigits(rows=80, correlation=0.9, flat=True, batch_size=10),
        {"crash_at": 11},
    ),
    "ImageClassifier": OfRun(lambda: ImageClassifier(CNN), digits, THIRD),
    "ImageFolder": OfRun(lambda: ImageClassifier(CNN), images),
    "IndependentMembers": OfRun(lambda: IndependentMembers(CNN, num_members=2), digits, THIRD),
    "LabelledImages": OfRun(lambda: ImageClassifier(CNN), labelled_images),
    "LeaveOneOutNeighbours": OfRun(
        lambda: LeaveOneOutNeighbours(CNN, k=5, memory=100),
        lambda: Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], max_rows=120, batch_size=40),
        THIRD,
    ),
    "MNIST5k": OfRun(lambda: ImageClassifier(FLAT), lambda: MNIST5k(batch_size=32, flat=True, max_rows=320), real=True),
    "RedundantDigits": OfRun(
        lambda: GroupedClassifier(FLAT),
        lambda: RedundantDigits(rows=80, correlation=0.9, flat=True, batch_size=10),
        {"crash_at": 11},
    ),
    "SideBySide": OfRun(lambda: GroupedClassifier(FLAT), side_by_side, {"crash_at": 11}),
}
