"""The callbacks, methods, data modules and metrics of this family in small."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from lit_ft.callbacks import LikelihoodDisplacement
from lit_ft.data import ChesFilter, EditedPairs, Preferences, UnpairedPreferences
from lit_ft.methods import DPO, KTO, RewardModel, UnpairedBCO
from lit_ft.metrics import ChesScore
from lit_ft.preference.reference import FrozenCopy
from tests.example import LLAMA, OfCallback, OfMetric, OfRun, drawn, texts, written

NETWORK: Any = {"config": LLAMA}
STEADY: Any = {"config": {**LLAMA, "attention_dropout": 0.0}}


def fast(lr: float) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def paired() -> Preferences:
    return Preferences(texts(), batch_size=4)


def few() -> Preferences:
    rows = [{"prompt": "q", "chosen": "a" * i, "rejected": "b" * i} for i in range(1, 13)]
    return Preferences(written("few.jsonl", rows), batch_size=1, val_fraction=0.25)


def unpaired() -> UnpairedPreferences:
    rows = [
        {"prompt": f"q{i // 2} ", "completion": ("yes" if i % 2 else "no") * (1 + i % 3), "label": i % 2 == 1}
        for i in range(16)
    ]
    return UnpairedPreferences(written("unpaired.jsonl", rows), batch_size=2, val_fraction=0.25)


def by_score() -> LightningModule:
    """Later weights score otherwise: only the checkpoint knows the pairs that the start has kept."""
    return DPO(STEADY, optimizer=fast(3.0))


def edited() -> EditedPairs:
    return EditedPairs(pairs=16, length=4, few=4, batch_size=2, ches_filter=ChesFilter(0.5))


EXAMPLES = {
    "ChesScore": OfMetric(ChesScore, lambda n: (drawn(n)(4, 5, 3), torch.tensor(4 * [[0, 0, 1, 1, 1]]))),
    "DPO": OfRun(lambda: DPO(NETWORK, reference=FrozenCopy()), paired, alone=False),
    "EditedPairs": OfRun(by_score, edited, {"crash_at": 7, "max_epochs": 4}, alone=False),
    "KTO": OfRun(lambda: KTO(NETWORK, optimizer=fast(0.1)), unpaired, alone=False),
    "LikelihoodDisplacement": OfCallback(
        lambda: LikelihoodDisplacement(3), module=lambda: DPO(STEADY, optimizer=fast(0.5)), data=few
    ),
    "Preferences": OfRun(lambda: DPO(NETWORK, reference=FrozenCopy()), paired, alone=False),
    "RewardModel": OfRun(lambda: RewardModel(NETWORK), paired),
    "UnpairedBCO": OfRun(lambda: UnpairedBCO(NETWORK, beta=1.0, optimizer=fast(2.0)), unpaired, alone=False),
    "UnpairedPreferences": OfRun(lambda: KTO(NETWORK, optimizer=fast(0.1)), unpaired, alone=False),
}
