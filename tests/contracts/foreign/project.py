"""A project that nobody here wrote, in small: a module, rows, a trainer; nothing of this package."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def rows(seed: int = 0, number: int = 24) -> TensorDataset:
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())


class Net(pl.LightningModule):
    """Two layers and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.enc(batch[0]).tanh()), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.5)


class Stateful:
    """A loader of somebody's own that knows its place."""

    def __init__(self, batches: Any = None) -> None:
        self.batches = DataLoader(rows(), 4) if batches is None else batches
        self.at = self.start = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for number, batch in enumerate(self.batches):
            if number >= start:
                self.at = number + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = self.start = state["at"]


class Rows(pl.LightningDataModule):
    """Training rows, and others to validate on."""

    def train_dataloader(self) -> Any:
        return DataLoader(rows(), 4)

    def val_dataloader(self) -> Any:
        return DataLoader(rows(1), 4)


def fit(
    module: Any, *callbacks: Callback, data: Any = None, ckpt: Path | None = None, lib: Any = pl, **trainer: Any
) -> Any:
    """Train for an epoch of six batches; returns the trainer."""
    resume = {name: trainer.pop(name) for name in ("weights_only",) if name in trainer}
    runner = lib.Trainer(
        **{"max_epochs": 1, "logger": False, **trainer},
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
    )
    if isinstance(data, (pl.LightningDataModule, lib.LightningDataModule)):
        runner.fit(module, datamodule=data, ckpt_path=ckpt, **resume)
    else:
        runner.fit(module, Stateful() if data is None else data, ckpt_path=ckpt, **resume)
    return runner


def seeded(make: Any, *args: Any) -> Any:
    """A module from a fixed seed."""
    torch.manual_seed(0)
    return make(*args)
