"""Regions of tasks, where they can be known beforehand."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_ft.callbacks import TaskRegions
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import SavedSelection
from lit_ft.testing import fit_foreign

TARGET = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))


class Sums(pl.LightningModule):
    """Each row has one input that is not zero; a task has rows of some inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(8, 2, bias=False)
        nn.init.zeros_(self.model.weight)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.model(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


class Task(pl.LightningDataModule):
    def __init__(self, columns: list[int], rows: int = 16) -> None:
        super().__init__()
        x = torch.eye(8)[[columns[row % len(columns)] for row in range(rows)]]
        self.rows = TensorDataset(x, x @ TARGET)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=8)


LEFT, RIGHT, ALL = [0, 1, 2, 3], [4, 5, 6, 7], list(range(8))


def regions(folder: Path, data: dict[str, Task], **arguments: Any) -> tuple[TaskRegions, Sums, dict[str, torch.Tensor]]:
    callback = TaskRegions(data, save=True, **arguments)  # type: ignore[arg-type]
    module, _ = fit_foreign(
        [callback], module=Sums(), data=Task(ALL), limit_val_batches=0, max_epochs=20, default_root_dir=folder
    )
    found = {task: SavedSelection(str(folder / f"{task}.safetensors")).select(module)["weight"] for task in data}
    return callback, module, found  # type: ignore[return-value]


def test_tasks_lie_where_their_inputs_are(tmp_path: Path) -> None:
    data = {"left": Task(LEFT), "right": Task(RIGHT), "again": Task(LEFT), "middle": Task([2, 3, 4, 5])}
    callback, _, found = regions(tmp_path, data, density=0.5, steps=20, lr=1.0)
    assert callback.report()["entries"] == 8
    assert found["left"][:, LEFT].all()
    assert found["right"][:, RIGHT].all()
    shared = callback.report()["shared"]
    assert shared["left"] == {"left": 1.0, "right": 0.0, "again": 1.0, "middle": 0.5}


def test_one_step_takes_the_entries_that_lower_the_loss_most(tmp_path: Path) -> None:
    r"""The first gradient of the scores is :math:`\sigma'(-b)\,\tau\,\nabla L(\sigma(-b)\,\tau)`, from zero weights."""
    task = Task(ALL)
    _, module, found = regions(tmp_path, {"all": task}, density=0.25, steps=1, bias=2.0)
    tuned = module.model.weight.detach()
    graft = (torch.sigmoid(torch.tensor(-2.0)) * tuned).requires_grad_()
    x, y = (part[:8] for part in task.rows.tensors)
    (gradient,) = torch.autograd.grad((x @ graft.T - y).square().mean(), graft)
    best = (tuned * gradient).flatten().argsort()[:4]  # most negative: a larger share lowers the loss
    assert sorted(found["all"].flatten().nonzero().flatten().tolist()) == sorted(best.tolist())


def test_few_rows_are_read_again(tmp_path: Path) -> None:
    """Two rows for ten steps: the region is that of ten batches, not of one."""
    callback, _, found = regions(tmp_path, {"few": Task(LEFT, rows=2)}, density=0.25, steps=10, lr=1.0)
    assert int(found["few"].sum()) == callback.entries == 4
    assert not found["few"][:, RIGHT].any()


def test_bad_input() -> None:
    data = {"left": Task(LEFT)}
    for arguments in ({"data": {}}, {"density": 0.0}, {"density": 1.5}, {"steps": 0}, {"lr": 0.0}):
        with pytest.raises(ConfigError):
            TaskRegions(**{"data": data, **arguments})  # type: ignore[arg-type]


def test_a_share_below_one_entry_is_one_entry(tmp_path: Path) -> None:
    callback, _, found = regions(tmp_path, {"few": Task([0])}, density=0.001)
    assert int(found["few"].sum()) == callback.report()["entries"] == 1
