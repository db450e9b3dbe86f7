"""Old tasks are evaluated as a validation run would, and training does not notice."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_ft.classification.batches import NumbersBatch
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method, Output
from lit_ft.inside.forgetting import Forgetting
from lit_ft.running.processes import run_ranks
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign
from lit_ft.vision.batch import ImagesBatch
from tests.inside.examples import Ragged


class Classifier(Method):
    batch = NumbersBatch

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)

    def compute(self, batch: Any) -> Output:
        logits = self.network(batch[0])
        return Output(F.cross_entropy(logits, batch[1]), logits, batch[1])

    def loss_weight(self, batch: Any) -> float:
        return float(len(batch[1]))

    def configure_metrics(self) -> dict[str, Metric]:
        return {"accuracy": MulticlassAccuracy(3, average="micro")}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.3), nn.Linear(12, 3))


def expected(net: nn.Module) -> tuple[float, float]:
    x, y = Ragged().rows()
    with torch.no_grad():
        logits = net.eval()(x)
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


def test_values_are_those_of_all_rows_together() -> None:
    callback = Forgetting({"old": Ragged()}, every_n_steps=7)
    module, trainer = fit_foreign([callback], module=Classifier(network()))
    report = callback.report()
    assert report["steps"] == [0, 7, 14, 21, 22]
    for moment, net in (("start", network()), ("end", module.network)):
        loss, accuracy = expected(net)
        assert report["old"][moment]["loss"] == pytest.approx(loss, rel=1e-5)
        assert report["old"][moment]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert len(report["old"]["curves"]["loss"]) == 5
    assert float(trainer.callback_metrics["forgetting/old/loss"]) == pytest.approx(report["old"]["end"]["loss"])


class Far(Ragged):
    """Rows are moved once a batch is on its way."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 1, batch[1]


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
@pytest.mark.parametrize("make", [lambda: Classifier(network()), ForeignModule])
def test_values_are_those_of_a_validation_run(make: Any, precision: Any) -> None:
    """The hooks of the old data, and not of the new; and the precision of the run."""

    class Validated(Far):
        def val_dataloader(self) -> Any:
            return DataLoader(super().val_dataloader(), batch_size=None)  # type: ignore[arg-type]

    callback = Forgetting({"old": Far(), "new": ForeignData()})
    module, trainer = fit_foreign([callback], module=make(), precision=precision, max_epochs=1)
    for name, data in (("old", Validated()), ("new", ForeignData())):
        expected = trainer.validate(module, data, verbose=False)[0]
        assert callback.report()[name]["end"]["loss"] == pytest.approx(expected["val/loss"], rel=1e-2)
        if precision != "bf16-true":
            assert callback.report()[name]["end"]["loss"] == pytest.approx(expected["val/loss"], rel=1e-5)


class LogsMetric(ForeignModule):
    def __init__(self) -> None:
        super().__init__(norm=True)
        self.val_accuracy = MulticlassAccuracy(3, average="micro")

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        logits = self.model(x)
        self.val_accuracy(logits, y)
        self.log("val_accuracy", self.val_accuracy)
        return F.cross_entropy(logits, y)


def test_a_foreign_module_is_evaluated_by_its_own_step() -> None:
    callback = Forgetting({"old": Ragged()})
    module, _ = fit_foreign([callback], module=LogsMetric())
    loss, accuracy = expected(module.model)
    end = callback.report()["old"]["end"]
    assert end["loss"] == pytest.approx(loss, rel=1e-5)
    assert end["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    plain = Forgetting({"old": Ragged()})
    module, _ = fit_foreign([plain], module=ForeignModule())
    assert plain.report()["old"]["end"] == {"loss": pytest.approx(expected(module.model)[0], rel=1e-5)}


def test_limits_and_refusals() -> None:
    callback = Forgetting({"old": Ragged()}, limit_batches=1)
    module, _ = fit_foreign([callback], module=Classifier(network()))
    x, y = Ragged().rows()
    loss = F.cross_entropy(module.network.eval()(x[:3]), y[:3]).item()
    assert callback.report()["old"]["end"]["loss"] == pytest.approx(loss, rel=1e-5)
    with pytest.raises(ConfigError, match="at least one data module"):
        Forgetting({})

    class Images(pl.LightningDataModule):
        batch = ImagesBatch

    with pytest.raises(ConfigError, match=r"data\.old"):
        fit_foreign([Forgetting({"old": Images()})], module=Classifier(network()))


def test_an_evaluation_that_is_stopped_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else steps and values of the checkpoint that is then saved would not belong together."""
    callback, evaluate = Forgetting({"old": Ragged(), "new": ForeignData()}, every_n_steps=3), Forgetting._evaluate

    def stopped(self: Forgetting, trainer: pl.Trainer, module: Any, name: str) -> dict[str, float]:
        if name == "new" and trainer.global_step == 6:
            raise RuntimeError("crash on purpose")
        return evaluate(self, trainer, module, name)

    monkeypatch.setattr(Forgetting, "_evaluate", stopped)
    fit_foreign([callback], module=Classifier(network()))
    assert callback.steps == [0, 3]
    assert {len(values) for curves in callback.history.values() for values in curves.values()} == {2}


def fit_rank() -> dict[str, Any]:
    callback = Forgetting({"old": ForeignData()}, every_n_steps=2)
    fit_foreign([callback], module=Classifier(network()), devices=2, strategy="ddp", max_epochs=1)
    return callback.report()


def test_ranks_agree_on_the_value_over_all_rows() -> None:
    alone = Forgetting({"old": ForeignData()}, every_n_steps=2)
    fit_foreign([alone], module=Classifier(network()), max_epochs=1)
    first, second = run_ranks(fit_rank, 2)
    assert first == second
    for key, value in alone.report()["old"]["start"].items():
        assert first["old"]["start"][key] == pytest.approx(value, rel=1e-5)
