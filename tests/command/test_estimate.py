"""Memory of a step against a count by hand."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_ft.command.cli import command
from lit_ft.command.estimate import measured
from lit_ft.command.run import build
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import ImageClassifier

DIGITS = [
    "--model=ImageClassifier",
    '--model.network={"config": {"model_type": "mlp"}}',
    "--data=Digits",
    "--data.flat=true",
]


class Layers(torch.nn.Module):
    """Three layers, the first of which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10)
        self.first.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(self.first(x))))


@pytest.mark.parametrize(("optimizer", "states"), [(torch.optim.Adam, 2), (torch.optim.SGD, 0)])
def test_the_count_by_hand(optimizer: type, states: int) -> None:
    rows, trained = 8, 32 * 16 + 16 + 16 * 10 + 10
    module = ImageClassifier(Layers(), num_classes=10, input_shape=[64], optimizer=lambda p: optimizer(p, lr=0.1))  # type: ignore[arg-type]
    found = measured(module, {"images": torch.randn(rows, 64), "labels": torch.zeros(rows, dtype=torch.long)})
    assert found["gradients"] == 4 * trained
    counters = 4 * 4 if states else 0  # one step counter a tensor
    assert found["optimizer"] == states * 4 * trained + counters
    assert found["weights"] >= 4 * (trained + 64 * 32 + 32)
    # kept: what the middle layer read, tanh's result, log-probabilities, targets (and the loss's total weight)
    assert found["activations"] == pytest.approx(4 * rows * (32 + 16 + 10) + 8 * rows, abs=8)


class Foreign(pl.LightningModule):
    """The same layers in a module of its own, built in setup; it logs, and its schedule is of Lightning's form."""

    def __init__(self, optimizer: type) -> None:
        super().__init__()
        self.made = optimizer

    def setup(self, stage: str) -> None:
        self.layers = Layers()

    def training_step(self, batch: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        loss = torch.nn.functional.cross_entropy(self.layers(batch["images"]), batch["labels"])
        self.log("train/loss", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.made(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_foreign_module_is_counted_as_a_method_is(optimizer: type) -> None:
    batch = {"images": torch.randn(8, 64), "labels": torch.zeros(8, dtype=torch.long)}
    own = ImageClassifier(Layers(), num_classes=10, input_shape=[64], optimizer=lambda p: optimizer(p, lr=0.1))  # type: ignore[arg-type]
    of_method, of_foreign = measured(own, batch), measured(Foreign(optimizer), batch)
    del of_method["weights"], of_foreign["weights"]  # a method's metrics are buffers
    assert of_foreign == of_method


def test_a_module_that_steps_by_itself_is_refused() -> None:
    module = Foreign(torch.optim.SGD)
    module.automatic_optimization = False
    with pytest.raises(ConfigError, match="Lightning's"):
        measured(module, {})


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["estimate", *DIGITS]) == 0
    shown = capsys.readouterr().out
    for name in ("weights", "gradients", "optimizer", "activations", "sum"):
        assert name in shown
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert isinstance(build(DIGITS).datamodule, Digits)
