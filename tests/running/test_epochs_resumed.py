"""Resumed inside an epoch or between two, with loaders and sums of any kind: the run that was not interrupted."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from lit_ft.running.run_checkpoint import RunCheckpoint
from lit_ft.testing import difference

EPOCH = 6  # batches
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(24, 4, generator=generator), torch.randint(0, 2, (24,), generator=generator))


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.3)


def fit(
    folder: Path, module: pl.LightningModule, loader: Any, resume: int | None = None, *callbacks: Any, **trainer: Any
) -> pl.Trainer:
    every = None if resume else 1
    torch.manual_seed(1 if resume is None else 99)
    random.seed(1 if resume is None else 99)
    saves = RunCheckpoint(every, keep=99, folder=str(folder / (f"from_{resume}" if resume else "whole")))
    runner = pl.Trainer(
        **{"max_epochs": 3, **trainer},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saves, *callbacks],
    )
    path = folder / "whole" / f"step={resume:08d}.ckpt" if resume else None
    runner.fit(module, loader, ckpt_path=path, weights_only=True)
    return runner


def weights(trainer: pl.Trainer) -> dict[str, Any]:
    return dict(trainer.lightning_module.state_dict())


class Counting:
    """A loader that tells its position, and until the next batch the end of the epoch before."""

    def __init__(self) -> None:
        self.at, self.go_on = 0, False

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[Any]:
        start, self.go_on = self.at if self.go_on else 0, False
        for number, batch in enumerate(DataLoader(rows(), 4)):
            if number >= start:
                self.at = number + 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.go_on = state["at"], True


class Drawing(DataLoader):
    """As torchdata's: each iterator draws its order, and goes on with that of the state that was loaded."""

    draws, at, seed, loaded = True, 0, 0, None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.loaded is not None:
            (self.at, self.seed), self.loaded = self.loaded, None
        else:
            self.at, self.seed = 0, int(torch.randint(1000, ()))
        return self._batches(self.seed)

    def _batches(self, seed: int) -> Iterator[Any]:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)).tolist()
        while self.at < EPOCH:
            self.at += 1
            yield default_collate([self.dataset[i] for i in order[4 * self.at - 4 : 4 * self.at]])

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = state["at"], state["seed"]


class Stream(IterableDataset):
    """No length: the trainer fetches a batch ahead."""

    def __iter__(self) -> Iterator[Any]:
        return iter(rows())


class Ahead(DataLoader):
    at, loaded = 0, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.at, self.loaded = self.loaded, 0
        for number, batch in enumerate(super().__iter__()):
            if number >= self.at:
                self.at += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = state["at"]


class Noisy(Dataset):
    """Draws from the global generators while a row is read."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> Any:
        x, y = rows()[number]
        return x + torch.randn(4) + random.random(), y


def torchdatas(shuffle: bool) -> Any:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    return torchdata.StatefulDataLoader(rows(), 4, shuffle=shuffle)


LOADERS: dict[str, Callable[[], Any]] = {
    "counting": Counting,
    "drawing": lambda: Drawing(rows(), 4),
    "without a length": lambda: Ahead(Stream(), 4),
    "with random rows": lambda: Drawing(Noisy(), 4),
    "torchdata": lambda: torchdatas(False),
    "torchdata, shuffled": lambda: torchdatas(True),
}


@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 4}, {"accumulate_grad_batches": 4}])
@pytest.mark.parametrize("kind", list(LOADERS))
def test_the_next_batch_is_the_next(kind: str, limits: dict[str, Any], tmp_path: Path) -> None:
    make = LOADERS[kind]
    whole = fit(tmp_path, Net(), make(), **limits)
    for step in (1, 4, 5, 6, 7, 8, 10, 11):
        if step >= whole.global_step:
            break
        rest = fit(tmp_path, Net(), make(), step, **limits)
        assert rest.global_step == whole.global_step, f"from step {step}"
        assert not difference(weights(whole), weights(rest)), f"from step {step}"


@pytest.mark.parametrize("kind", list(LOADERS))
def test_a_finished_run_goes_on(kind: str, tmp_path: Path) -> None:
    """Its last checkpoint is of the end, where no next epoch was begun; and one inside an epoch, where steps ended."""
    make = LOADERS[kind]
    whole = fit(tmp_path / "epochs", Net(), make())
    fit(tmp_path / "short", Net(), make(), max_epochs=1)
    rest = fit(tmp_path / "short", Net(), make(), EPOCH)
    assert rest.global_step == whole.global_step
    assert not difference(weights(whole), weights(rest))
    fit(tmp_path / "steps", Net(), make(), max_epochs=None, max_steps=9)
    rest = fit(tmp_path / "steps", Net(), make(), 9)
    assert rest.global_step == whole.global_step
    assert not difference(weights(whole), weights(rest))
    same = ("train_loss",)
    assert all(torch.equal(rest.callback_metrics[key], whole.callback_metrics[key]) for key in same)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_without_state_begins_its_epoch_as_it_did(workers: int, tmp_path: Path) -> None:
    def make() -> Any:
        return DataLoader(rows(), 4, shuffle=True, num_workers=workers)

    whole = fit(tmp_path, Net(), make(), num_sanity_val_steps=0)
    for step in (EPOCH, 2 * EPOCH):
        assert not difference(weights(whole), weights(fit(tmp_path, Net(), make(), step))), f"from step {step}"


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.01)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train_loss"}}


class Sums(Net):
    """Every kind of sum over an epoch; some are logged in some steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.area = MulticlassAccuracy(2, average="micro"), BinaryAUROC()
        self.mean, self.all = MeanMetric(), CatMetric()
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        scores = self.layer(batch[0]).detach()
        self.accuracy(scores, batch[1])
        self.area.update(scores.softmax(-1)[:, 1], batch[1])
        self.mean.update(loss.detach())
        self.all.update(loss.detach())
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("area", self.area, on_step=False, on_epoch=True)
        for reduce in ("max", "min", "sum"):
            self.log(reduce, loss, on_step=False, on_epoch=True, reduce_fx=reduce)
        if batch_idx == 1:
            self.log("once", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean", self.mean.compute())
        self.log("last", self.all.compute()[-1])
        self.log("parts", float(len(self.all.compute())))
        self.mean.reset()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append({key: float(value) for key, value in self.trainer.callback_metrics.items()})


@pytest.mark.parametrize("module", [Plateau, Sums])
def test_what_an_epoch_sums_up_goes_on(module: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path, module(), Counting(), max_epochs=4)
    for step in (1, 2, 4, EPOCH, 8, 11, 16):
        rest = fit(tmp_path, module(), Counting(), step, max_epochs=4)
        assert not difference(weights(whole), weights(rest)), f"from step {step}"
        assert not difference(dict(whole.callback_metrics), dict(rest.callback_metrics)), f"from step {step}"
        if module is Sums:
            assert rest.lightning_module.seen == whole.lightning_module.seen[step:], f"from step {step}"


def test_early_stopping_follows_the_mean_of_the_whole_epoch(tmp_path: Path) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping("train_loss", patience=0, min_delta=0.02, check_on_train_epoch_end=True)

    whole = fit(tmp_path, Net(), Counting(), None, stopping(), max_epochs=20)
    assert whole.current_epoch < 20
    for step in (8, 16):
        rest = fit(tmp_path, Net(), Counting(), step, stopping(), max_epochs=20)
        assert rest.global_step == whole.global_step, f"from step {step}"
