"""Every callback of the package through the same contracts, one row each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lit_ft.testing import ForeignData, ForeignModule, check_callback, difference, fit_foreign
from tests.example import OfCallback, rows

ROWS = rows(OfCallback)
pytestmark = [pytest.mark.usefixtures("empty_folder"), pytest.mark.parametrize("name", ROWS)]


class Plain(ForeignModule):
    """With an optimizer that has no state: Lightning makes it anew in every fit."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


class Few(ForeignData):
    """Epochs of seven batches, and some to test with, too."""

    def __init__(self) -> None:
        super().__init__(28)

    def test_dataloader(self) -> Any:
        return self._loader(False)


def parts(row: OfCallback) -> tuple[Any, Any]:
    """What makes the module and the data of a row."""
    return Plain if row.module is ForeignModule else row.module, Few if row.data is ForeignData else row.data


def test_contracts(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    check_callback(row.make, tmp_path, row.no_op, make_module=row.module, make_data=parts(row)[1])


def evaluator(*callbacks: Callback) -> Trainer:
    return Trainer(callbacks=list(callbacks), accelerator="cpu", logger=False, enable_progress_bar=False)


def test_evaluation_without_a_fit_is_as_without_the_callback(name: str) -> None:
    make_module, make_data = parts(ROWS[name])
    module = make_module()
    for part in ("validate", "test") if make_data is Few else ("validate",):
        without = getattr(evaluator(), part)(module, datamodule=make_data(), verbose=False)[0]
        before = {key: value.clone() for key, value in module.state_dict().items()}
        with_it = getattr(evaluator(ROWS[name].make()), part)(module, datamodule=make_data(), verbose=False)[0]
        assert with_it | without == with_it
        assert not difference(before, dict(module.state_dict()))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_second_fit_of_one_trainer_goes_on(name: str) -> None:
    """One epoch and one more are two, for the weights and for what the callback knows."""
    make = ROWS[name].lasting or ROWS[name].make
    make_module, make_data = parts(ROWS[name])
    twice, once = make(), make()
    module, trainer = fit_foreign([twice], make_module=make_module, make_data=make_data, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=make_data())
    whole, _ = fit_foreign([once], make_module=make_module, make_data=make_data)
    assert not difference(dict(module.state_dict()), dict(whole.state_dict()))
    assert not difference(twice.state_dict(), once.state_dict())
