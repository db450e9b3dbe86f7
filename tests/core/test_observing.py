from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lit_ft.callbacks import FeatureProbe, KernelRegime, LayerSimilarity
from lit_ft.core.errors import ConfigError
from lit_ft.core.observing import own_loader
from lit_ft.core.passes.second_pass import without_trace
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign


class Doubling(ForeignData):
    """Data whose rows are doubled on their way to the network."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [2 * batch[0], batch[1]]


class Seeing(ForeignModule):
    """Keeps the first rows that each validation step gets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch[0][0].clone())
        super().validation_step(batch, batch_idx)


class Own(pl.Callback):
    """Runs the validation batches of a loader of its own."""

    def __init__(self, other: Any = None) -> None:
        self.other = other

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.seen.clear()
        with without_trace(trainer, pl_module):
            for number, batch in enumerate(own_loader(trainer, pl_module, "val_dataloader", self.other)):
                pl_module.validation_step(batch, number)
            self.seen = list(pl_module.seen)


def test_batches_are_those_of_the_validation() -> None:
    own = Own()
    fit_foreign([own], module=Seeing(), data=Doubling(), max_epochs=1)
    found = own.seen
    plain = Seeing()
    fit_foreign([], module=plain, data=Doubling(), max_epochs=1)
    assert torch.equal(torch.stack(found), torch.stack(plain.seen))
    raw = next(iter(ForeignData().val_dataloader()))[0][0]
    assert torch.equal(found[0], 2 * raw), "the hook of the data module was applied once"


class Hooked(ForeignData):
    """Data whose rows are changed at each place where that is possible, in an order that shows."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [2 * batch[0], batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device([batch[0] + 1, batch[1]], device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [3 * batch[0], batch[1]]


class Centred(Seeing):
    """A module with a hook of its own, which is asked where the data have none."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] - 1, batch[1]]


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer`:UserWarning")
@pytest.mark.parametrize("other", [Hooked, ForeignData])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_batches_of_other_data_are_handed_over_by_their_own_hooks(other: Any, precision: Any) -> None:
    own = Own(other())
    module, trainer = fit_foreign([own], module=Centred(), data=Doubling(), max_epochs=1, precision=precision)
    module.seen.clear()
    trainer.validate(module, other(), verbose=False)
    assert own.seen[0].dtype == {"32-true": torch.float32, "64-true": torch.float64}[precision]
    assert torch.equal(torch.stack(own.seen), torch.stack(module.seen))


class OnlyTraining(ForeignData):
    """Data without a validation loader."""

    val_dataloader = pl.LightningDataModule.val_dataloader


class Empty(ForeignData):
    """Data with no validation loader in the list of them."""

    def val_dataloader(self) -> Any:
        return []


@pytest.mark.parametrize("data", [OnlyTraining, Empty])
@pytest.mark.parametrize("probe", [FeatureProbe("model.2"), LayerSimilarity(["model.0"])])
def test_what_needs_validation_rows_says_so(data: Any, probe: Any) -> None:
    with pytest.raises(ConfigError, match="data whose val_dataloader has at least"):
        fit_foreign([probe], data=data(), limit_val_batches=0)


@pytest.mark.parametrize("data", [OnlyTraining, Empty])
def test_the_kernel_regime_goes_without_validation_rows(data: Any) -> None:
    regime = KernelRegime("model", every_n_steps=5)
    fit_foreign([regime], data=data(), limit_val_batches=0)
    assert set(regime.report()) == {"verdict", "linearization_error", "feature_drift"}


def test_the_first_of_several_loaders() -> None:
    class Several(ForeignData):
        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().train_dataloader()]

    class Two(Seeing):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    own = Own()
    fit_foreign([own], module=Two(), data=Several(), max_epochs=1)
    expected = [batch[0][0] for batch in ForeignData().val_dataloader()]
    assert torch.equal(torch.stack(own.seen), torch.stack(expected))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_what_looks_at_a_network_follows_its_precision(precision: Any) -> None:
    places = ["model.0", "model.4"]
    probe, similarity = FeatureProbe("model.2", at_validation=True), LayerSimilarity(places, num_rows=8)
    fit_foreign([probe, similarity, KernelRegime("model", every_n_steps=5)], precision=precision)
    assert len(probe.measured) == 3


def test_a_probe_measures_outside_a_fit_what_it_measured_inside() -> None:
    probe = FeatureProbe("model.2", at_validation=True)
    module, trainer = fit_foreign([probe])
    trainer.validate(module, ForeignData(), verbose=False)
    assert probe.measured[-1]["accuracy"] == probe.measured[-2]["accuracy"]
