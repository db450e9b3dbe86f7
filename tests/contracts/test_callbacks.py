"""Every callback of the package through the same contracts, one row each."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import lit_ft.callbacks
from lit_ft.callbacks import (
    SAM,
    SWAG,
    Calibration,
    ComposedDeltas,
    EdgeOfStability,
    FeatureProbe,
    Forgetting,
    ForwardMask,
    GaussianNoise,
    GradientGrafting,
    GradientMask,
    KernelRegime,
    LayerSimilarity,
    LearnedGraft,
    LotteryTicket,
    MicroBatchRegularizer,
    SoftMask,
    StopBelowLoss,
    TaskRegions,
    TrainingFlops,
)
from lit_ft.core.selection import Names, TopMagnitude
from lit_ft.testing import ForeignData, check_callback

HALF = {"model.0.weight": torch.full((12, 6), 0.5)}

# class: (as used, in the setting that does nothing or None)
ROWS: dict[str, tuple[Callable[[], Callback], Callable[[], Callback] | None]] = {
    "Calibration": (lambda: Calibration("model"), lambda: Calibration("model")),
    "ComposedDeltas": (lambda: ComposedDeltas([]), lambda: ComposedDeltas([])),
    "EdgeOfStability": (lambda: EdgeOfStability(2, save_vectors=True), lambda: EdgeOfStability(every_n_steps=2)),
    "FeatureProbe": (
        lambda: FeatureProbe("model.2", at_validation=True),
        lambda: FeatureProbe("model.2", at_validation=True),
    ),
    "Forgetting": (
        lambda: Forgetting({"old": ForeignData()}, every_n_steps=3),
        lambda: Forgetting({"old": ForeignData()}, every_n_steps=3),
    ),
    "ForwardMask": (lambda: ForwardMask(Names(["*.weight"]), init=0.006), None),
    "GaussianNoise": (lambda: GaussianNoise(0.1, key=0), lambda: GaussianNoise(0.0, key=0)),
    "GradientGrafting": (lambda: GradientGrafting(), None),
    "GradientMask": (lambda: GradientMask(TopMagnitude(0.3)), lambda: GradientMask(Names(["*"]))),
    "KernelRegime": (
        lambda: KernelRegime("model", every_n_steps=3),
        lambda: KernelRegime("model", every_n_steps=3),
    ),
    "LayerSimilarity": (
        lambda: LayerSimilarity(["model.0", "model.2"], num_rows=20),
        lambda: LayerSimilarity(["model.0", "model.2"], num_rows=20),
    ),
    "LearnedGraft": (lambda: LearnedGraft(first_steps=4, density=0.2), None),
    "LotteryTicket": (lambda: LotteryTicket(first_steps=4, density=0.2), None),
    "MicroBatchRegularizer": (
        lambda: MicroBatchRegularizer(weight=0.1),
        lambda: MicroBatchRegularizer(weight=0.0),
    ),
    "SWAG": (lambda: SWAG(start=0.5, every_n_steps=2, rank=3), lambda: SWAG(start=0.5, every_n_steps=2, rank=3)),
    "SoftMask": (lambda: SoftMask(HALF), lambda: SoftMask({})),
    "StopBelowLoss": (lambda: StopBelowLoss(1.0), lambda: StopBelowLoss(1e-9)),
    "TaskRegions": (
        lambda: TaskRegions({"a": ForeignData(), "b": ForeignData()}, density=0.2, steps=3),
        lambda: TaskRegions({"a": ForeignData()}, density=0.2, steps=3),
    ),
    "TrainingFlops": (lambda: TrainingFlops(every_n_steps=3), lambda: TrainingFlops()),
    "SAM": (lambda: SAM(rho=0.05), lambda: SAM(rho=0.0)),
}

# written for runs of the package's own command and tested there
ELSEWHERE = {
    "HeadOffsets",  # needs heads
    "RunCheckpoint",
    "RunReport",
    "WarmStart",
    "EditingScores",
    "LikelihoodDisplacement",
    "PrefillCost",
    "TaskScore",
    "SampledText",
    "CoBa",
}


def public_callbacks() -> set[str]:
    return {
        name
        for name, value in vars(lit_ft.callbacks).items()
        if inspect.isclass(value) and issubclass(value, Callback) and value.__module__.startswith("lit_ft")
    }


def test_every_callback_has_a_row() -> None:
    assert public_callbacks() - ELSEWHERE == set(ROWS)


@pytest.mark.parametrize("name", list(ROWS))
def test_contracts(name: str, tmp_path: Path) -> None:
    make, no_op = ROWS[name]
    check_callback(make, tmp_path, no_op)
