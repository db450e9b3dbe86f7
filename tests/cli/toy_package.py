"""A user's own module and data, outside of the package: named by ``--import toy_package``."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import default_collate

from lit_ft.classification.batches import NumbersBatch
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method, Output
from lit_ft.core.network import Network
from lit_ft.core.schedules import Schedule
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader
from lit_ft.vision.batch import ImagesBatch

ROWS = 40


class Toy(Method):
    """A line through dropout.

    Args:
        width: Units in the middle, at least 1.
    """

    batch = NumbersBatch

    def __init__(
        self,
        network: Network,
        width: int = 3,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=0.01),
        schedule: Schedule | None = None,
    ) -> None:
        if width < 1:
            raise ConfigError("width", width, "at least 1")
        super().__init__(network, optimizer, schedule)
        self.width = width

    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, self.width), nn.Dropout(0.2), nn.Linear(self.width, 1))

    def compute(self, batch: Any) -> Output:
        x, y = batch
        assert self.network is not None
        predictions = self.network(x)[:, 0]
        return Output(((predictions - y) ** 2).mean(), predictions, y)

    def loss_weight(self, batch: Any) -> float:
        return len(batch[0])


class Scaler:
    """An encoder of somebody's own, which hyper-parameters may hold."""


class Holding(pl.LightningModule):
    """A module of plain Lightning whose hyper-parameters are no plain data."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"scaler": Scaler()})
        self.net = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self.net(batch[0])[:, 0] - batch[1]).square().mean()
        self.log("loss", loss)
        return loss

    validation_step = test_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ToyData(pl.LightningDataModule):
    """Rows whose target is their first number.

    Args:
        rows: How many.
    """

    batch = NumbersBatch

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, 4, generator=generator)
        self.rows: list[tuple[Tensor, Tensor]] = list(zip(x, x[:, 0], strict=True))

    def _loader(self, training: bool) -> Any:
        plan = shuffled_batches(len(self.rows), 4, seed=1, shuffle=training)
        return make_loader(self.rows, plan, default_collate, seed=1, training=training)

    def train_dataloader(self) -> Any:
        return self._loader(True)

    def val_dataloader(self) -> Any:
        return self._loader(False)

    def test_dataloader(self) -> Any:
        return self._loader(False)

    def predict_dataloader(self) -> Any:
        return self._loader(False)


class Waits(pl.Callback):
    """Says that it waits, and does so for a minute.

    Args:
        at: Name of the hook.
        step: The step from which on it waits.
    """

    def __init__(self, at: str, step: int = 0) -> None:
        setattr(self, at, self._wait)
        self.step = step

    def _wait(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        if trainer.global_step >= self.step:
            Path("waits").write_text("")
            time.sleep(60)


class OtherData(ToyData):
    """The same rows under another kind of batch."""

    batch = ImagesBatch
