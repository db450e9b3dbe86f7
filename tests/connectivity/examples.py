"""The methods and metrics of this family in small."""

from typing import Any

import torch

from lit_ft.data import Digits
from lit_ft.methods import ClassifierPair, ModeConnectivity
from lit_ft.metrics import Barrier
from tests.example import OfMetric, OfRun, drawn

CNN: Any = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True}}
THIRD = {"max_epochs": 3, "crash_at": 7}


def digits() -> Digits:
    return Digits(max_rows=120, batch_size=40)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


EXAMPLES = {
    "Barrier": OfMetric(lambda: Barrier([0, 0.5, 1]), lambda n: (n % 3, drawn(n)(4))),
    "ClassifierPair": OfRun(lambda: ClassifierPair(CNN, optimizer=momentum), digits, THIRD),
    "ModeConnectivity": OfRun(lambda: ModeConnectivity(CNN, optimizer=momentum), digits, THIRD),
}
