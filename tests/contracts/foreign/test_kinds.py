"""Each kind of foreign project with each callback: trained as without the callback, bit by bit, or refused by name.

Callbacks that change training are in the setting in which they change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning as ptl
import torch
from torch import nn

from lit_ft.callbacks import (
    SAM,
    SWAG,
    Calibration,
    EdgeOfStability,
    FeatureProbe,
    Forgetting,
    GaussianNoise,
    GradientMask,
    KernelRegime,
    LayerSimilarity,
    MicroBatchRegularizer,
    RunCheckpoint,
    TrainingFlops,
)
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.running.run_report import RunReport
from lit_ft.testing import difference
from tests.contracts.foreign.forms import FORMS
from tests.contracts.foreign.project import Net, Rows, Stateful, fit, rows, seeded
from tests.contracts.foreign.test_batches import Formed, Giving, Reading
from tests.contracts.foreign.test_loaders import Lazy, Must, Several
from tests.contracts.foreign.test_steps import GAN
from tests.contracts.foreign.writers import Counter, Held, Hidden, Momentum, Scheduled

pytestmark = [
    pytest.mark.usefixtures("empty_folder"),
    pytest.mark.filterwarnings("ignore:Calibration. no value:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*(pytorch_lightning|SmoothGrad).*"),
]


class Other(ptl.LightningModule):
    """Of the other package of Lightning."""

    loss, training_step, validation_step = Net.loss, Net.training_step, Net.validation_step
    configure_optimizers = Net.configure_optimizers

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.head = nn.Linear(4, 6), nn.Linear(6, 2)


class OtherRows(ptl.LightningDataModule):
    train_dataloader, val_dataloader = Rows.train_dataloader, Rows.val_dataloader


class Resumable(Rows):
    def train_dataloader(self) -> Any:
        return Stateful(torch.utils.data.DataLoader(rows(), 4, shuffle=True))


@dataclass(frozen=True)
class Kind:
    make: Callable[[], Any]
    data: Callable[[], Any] = Rows
    lib: Any = pl


def form(name: str) -> Kind:
    return Kind(lambda: Reading(FORMS[name]), lambda: Formed(FORMS[name]))


SIX = ("target and weight", "an encoding", "named parts", "a dataclass", "slots", "a graph")
KINDS = {
    "momentum network": Kind(Momentum),
    "counter": Kind(Counter),
    "hidden state": Kind(Hidden),
    "scheduler in the step": Kind(Scheduled),
    "own on_after_backward": Kind(Held),
    "two optimizers by hand": Kind(GAN),
    "two loaders": Kind(Must, lambda: Several("a list")),
    "lazy layers": Kind(Lazy),
    "distributions": Kind(lambda: Giving(lambda h: torch.distributions.Normal(h, 1.0, validate_args=False))),
    "a loader with a state": Kind(Net, Resumable),
    "pytorch_lightning": Kind(Other, OtherRows, ptl),
    **{name: form(name) for name in SIX},
}

CALLBACKS: dict[str, Callable[[Kind], Any]] = {
    "Calibration": lambda kind: Calibration("head"),
    "EdgeOfStability": lambda kind: EdgeOfStability(2, k=1, tol=0.5),
    "FeatureProbe": lambda kind: FeatureProbe("enc", penalty=10.0),
    "Forgetting": lambda kind: Forgetting({"old": kind.data()}, every_n_steps=2),
    "GaussianNoise": lambda kind: GaussianNoise(0.0, key=0),
    "GradientMask": lambda kind: GradientMask(Names("*")),
    "KernelRegime": lambda kind: KernelRegime("head", every_n_steps=2),
    "LayerSimilarity": lambda kind: LayerSimilarity(["enc"], num_rows=8, probe=False),
    "MicroBatchRegularizer": lambda kind: MicroBatchRegularizer(weight=0.0),
    "RunCheckpoint": lambda kind: RunCheckpoint(1, folder="run"),
    "RunReport": lambda kind: RunReport("report"),
    "SAM": lambda kind: SAM(0.0),
    "SWAG": lambda kind: SWAG(1, 1),
    "TrainingFlops": lambda kind: TrainingFlops(),
}
LOOK_FIRST = ("FeatureProbe", "Forgetting", "GradientMask", "KernelRegime", "LayerSimilarity")
REFUSED = {
    **{("two optimizers by hand", name): "by hand" for name in ("EdgeOfStability", "MicroBatchRegularizer", "SAM")},
    **{("lazy layers", name): "seen a batch" for name in LOOK_FIRST},  # they need its weights before the first step
    ("a graph", "KernelRegime"): "cut into rows",
}


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("name", KINDS)
def test_a_callback_is_right_or_refused_by_name(name: str, callback: str) -> None:
    kind = KINDS[name]

    def run(*callbacks: Any) -> dict[str, Any]:
        module = seeded(kind.make)
        fit(module, *callbacks, data=kind.data(), lib=kind.lib, max_steps=6 if name.startswith("two opt") else 3)
        return dict(module.state_dict())

    if (why := REFUSED.get((name, callback))) is not None:
        with pytest.raises(ConfigError, match=why) as error:
            run(CALLBACKS[callback](kind))
        assert "\n" not in str(error.value)
        return
    assert not difference(run(CALLBACKS[callback](kind)), run())
