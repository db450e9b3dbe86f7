"""Several loaders, steps that take what Lightning lets them take, lazy layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_ft.callbacks import (
    FeatureProbe,
    Forgetting,
    GradientMask,
    KernelRegime,
    LayerSimilarity,
    RunCheckpoint,
    WarmStart,
)
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.running.report import read_report
from lit_ft.running.run_report import RunReport
from lit_ft.testing import difference
from tests.contracts.foreign.project import Net, Rows, fit, rows, seeded

pytestmark = pytest.mark.usefixtures("empty_folder")


class Maybe(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))


class Must(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


class ByPlace(Net):
    def validation_step(self, b: Any, i: int, d: int) -> None:
        self.log("val_loss", self.loss(b))


class Any2(Net):
    def validation_step(self, *args: Any) -> None:
        batch, _, *_ = args
        self.log("val_loss", self.loss(batch))


class OnlyBatch(Net):
    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", self.loss(batch))


STEPS = [Net, Maybe, Must, ByPlace, Any2, OnlyBatch]


def two() -> list[Any]:
    return [DataLoader(rows(1), 4), DataLoader(rows(2), 4)]


SEVERAL = {
    "a list": two,
    "a tuple": lambda: tuple(two()),
    "a mapping": lambda: dict(zip("ab", two(), strict=True)),
    "a combined loader": lambda: CombinedLoader(two(), "sequential"),
}


class Several(Rows):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def val_dataloader(self) -> Any:
        return SEVERAL[self.form]()


def measured(make: Any, data: Any, old: Any = None) -> tuple[Any, ...]:
    """What callbacks report that run the validation step themselves, before the training's own validation."""
    forgetting, probe = Forgetting({"old": old or Rows()}), FeatureProbe("enc", penalty=10.0)
    similarity, kernel = LayerSimilarity(["enc"], num_rows=8, probe=False), KernelRegime("head", every_n_steps=2)
    callbacks = (forgetting, probe, similarity, kernel)
    fit(seeded(make), *callbacks, data=data, max_steps=3, limit_val_batches=0)
    return tuple(callback.report() for callback in callbacks)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", STEPS)
def test_a_validation_step_gets_what_it_takes(make: Any) -> None:
    assert measured(make, Rows()) == measured(Net, Rows())


@pytest.mark.parametrize("form", SEVERAL)
def test_of_several_loaders_the_first_is_looked_at_and_all_are_evaluated(form: str) -> None:
    class Both(LightningDataModule):
        def val_dataloader(self) -> Any:
            return DataLoader(torch.utils.data.ConcatDataset([rows(1), rows(2)]), 4)

    assert measured(Must, Several(form), Several(form)) == measured(Net, Rows(), Both())


class Together(Net):
    """Trains on two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(map(self.loss, batch.values() if isinstance(batch, dict) else batch))  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["a list", "a mapping"])
def test_loaders_that_are_trained_on_together_are_read_together(form: str) -> None:
    """Not the batches of one of them, which such a module does not read; nor does its validation read theirs."""

    class Data(Several):
        def train_dataloader(self) -> Any:
            return SEVERAL[self.form]()

        def val_dataloader(self) -> Any:
            return DataLoader(rows(1), 4)

    with pytest.raises(ConfigError, match=r"batches that Together validates|batches with labels") as error:
        fit(seeded(Together), FeatureProbe("enc"), data=Data(form), max_steps=3)
    assert "\n" not in str(error.value)


class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.LazyLinear(6)  # type: ignore[assignment]


def test_lazy_layers_train_are_saved_and_counted() -> None:
    plain = seeded(Lazy)
    fit(plain)
    watched = seeded(Lazy)
    fit(watched, RunReport("run"), RunCheckpoint(2, folder="run/checkpoints"))
    assert not difference(dict(plain.state_dict()), dict(watched.state_dict()))
    assert read_report(Path("run"))["parameters"] == 44
    warm = seeded(Lazy)
    fit(warm, WarmStart("run/checkpoints/step=00000006.ckpt"), max_steps=1)
    assert warm.enc.weight.shape == (6, 4)


LOOKING: dict[str, Any] = {
    "FeatureProbe": lambda: FeatureProbe("enc"),
    "LayerSimilarity": lambda: LayerSimilarity(["enc"], num_rows=8),
    "KernelRegime": lambda: KernelRegime("head"),
    "Forgetting": lambda: Forgetting({"old": Rows()}),
    "GradientMask": lambda: GradientMask(Names("enc.*")),
}


@pytest.mark.parametrize("name", LOOKING)
def test_what_needs_the_shape_of_a_lazy_layer_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Lazy with lazy enc.weight.*seen a batch") as error:
        fit(seeded(Lazy), LOOKING[name](), data=Rows(), max_steps=3)
    assert "\n" not in str(error.value)
    seen = seeded(Lazy)
    seen.enc(torch.zeros(1, 4))
    fit(seen, LOOKING[name](), data=Rows(), max_steps=3)
