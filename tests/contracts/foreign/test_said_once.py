"""What a module tells the trainer and its loggers is told by its own steps alone, in the stage that it is in."""

from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lit_ft.callbacks import SAM, EdgeOfStability, FeatureProbe, Forgetting, ForwardMask, GradientMask, LayerSimilarity
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from tests.contracts.foreign.packages import of
from tests.contracts.foreign.project import Net, Rows, fit, seeded

pytestmark = pytest.mark.usefixtures("empty_folder")


class Writer:
    """An experiment, as loggers hold one."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def add_scalar(self, name: str, value: float, step: int = 0) -> None:
        self.told.append(name)

    def log(self, values: dict[str, float]) -> None:
        self.told += values


class OwnLogger(CSVLogger):
    """A logger of somebody's own, with an experiment and further methods."""

    def __init__(self) -> None:
        super().__init__(".")
        self.writer, self.images = Writer(), 0

    @property
    def experiment(self) -> Any:
        return self.writer

    def log_image(self, key: str, images: list[Any]) -> None:
        self.images += len(images)

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, params: Any = None) -> None:
        pass

    def save(self) -> None:
        pass


class Telling(Net):
    """Tells everybody about each of its steps."""

    def told(self, batch: Any) -> Tensor:
        loss, logger = self.loss(batch), self.trainer.loggers[1]
        self.logger.experiment.add_scalar("by the module", float(loss.detach()))
        self.trainer.logger.experiment.log({"by the trainer": 0.0})
        self.held.add_scalar("held", 0.0)
        logger.log_image("image", [0])
        self.print("printed")
        return loss

    def on_fit_start(self) -> None:
        self.held = self.trainer.loggers[1].experiment

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.told(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.told(batch))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SAM(0.05),
        lambda: EdgeOfStability(every_n_steps=2, tol=0.1),
        lambda: Forgetting({"old": Rows()}, every_n_steps=2),
        lambda: FeatureProbe("enc"),
    ],
)
def test_extra_passes_tell_no_logger(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*callbacks: Any) -> Any:
        loggers = [OwnLogger(), OwnLogger()]
        fit(seeded(Telling), *callbacks, data=Rows(), max_steps=4, logger=loggers)
        return [(one.writer.told, one.images) for one in loggers], capsys.readouterr().out

    assert told(make()) == told()


class Asking(Net):
    """Logs under the name of the stage, as pytorch-forecasting does, and validates otherwise than it trains."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.trainer.validating
        assert not self.trainer.training
        self.log(f"{self.trainer.state.stage.dataloader_prefix}_MAE", self.loss(batch))


@pytest.mark.parametrize("lib", [pl, pytorch_lightning])
def test_what_validates_says_so(lib: Any) -> None:
    forgetting = Forgetting({"old": Rows()}, every_n_steps=2)
    others = FeatureProbe("enc"), LayerSimilarity(["enc"], num_rows=8)
    trainer = fit(of(lib, Net, Asking)(), forgetting, *others, data=of(lib, Rows)(), lib=lib)
    assert set(forgetting.history["old"]) == {"MAE"}
    assert trainer.state.stage is None or not trainer.validating


class TwoOptimizers(Net):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        trained = [[p for p in part.parameters() if p.requires_grad] for part in (self.enc, self.head)]
        return [torch.optim.SGD(part, 0.1) for part in trained]


@pytest.mark.parametrize("make", [GradientMask, ForwardMask])
@pytest.mark.parametrize("part", ["enc", "head"])
def test_a_mask_that_empties_one_optimizer_is_refused_by_its_name(make: Any, part: str) -> None:
    module, mask = TwoOptimizers(), make(Names(f"{part}.*"))
    with pytest.raises(ConfigError, match=rf"^{make.__name__}.selection: given 'Names'; allowed: one that leaves each"):
        fit(module, mask)
    assert "configure_optimizers" not in vars(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_edge_of_stability_stops_at_its_cap_and_says_once_how_far_it_came() -> None:
    capped = EdgeOfStability(every_n_steps=1, tol=1e-12, max_products=12)
    with pytest.warns(
        UserWarning, match=r"not at tol=1e-12 \(step 0, after 1\d products, they are at \de-\d\d\)"
    ) as told:
        fit(seeded(Net), capped, data=Rows(), max_steps=4)
    assert sum("not at tol" in str(one.message) for one in told) == 1
    assert [row["products"] <= 16 for row in capped.measurements] == [True] * 4
    accurate = EdgeOfStability(every_n_steps=1)
    fit(seeded(Net), accurate, data=Rows(), max_steps=1)
    assert capped.measurements[0]["lambda_1"] == pytest.approx(accurate.measurements[0]["lambda_1"], rel=1e-3)
