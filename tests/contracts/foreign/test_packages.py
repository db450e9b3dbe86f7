"""``pytorch_lightning`` is a package of its own, with classes of its own: each callback works with it just as well."""

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch

from lit_ft.core.lightning import either, overridden
from lit_ft.testing import ForeignData, ForeignModule, difference
from tests.contracts.foreign.packages import of
from tests.contracts.foreign.project import fit
from tests.example import OfCallback, rows

ROWS = {n: row for n, row in rows(OfCallback).items() if (row.module, row.data) == (ForeignModule, ForeignData)}
pytestmark = [
    pytest.mark.usefixtures("empty_folder"),
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
]
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def trained(package: Any, callback: Any) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    module = of(package, ForeignModule)()
    assert isinstance(module, pl.LightningModule) is (package is pl)
    trainer = fit(
        module, callback, data=of(package, ForeignData)(), lib=package, max_steps=8, max_epochs=2, log_every_n_steps=1
    )
    times = ("seconds", "per_second", "time")
    logged = {name: value for name, value in trainer.callback_metrics.items() if not any(t in name for t in times)}
    return {"weights": dict(module.state_dict()), "logged": logged}


@pytest.mark.parametrize("name", ROWS)
def test_a_callback_does_the_same_with_either_package(name: str) -> None:
    ours, theirs = (trained(package, ROWS[name].make()) for package in (pl, pytorch_lightning))
    assert not difference(ours, theirs)


def test_classes_of_both_packages_are_one_kind() -> None:
    both = either(pl.strategies.DDPStrategy, pl.loggers.Logger, pl.callbacks.EarlyStopping)
    assert pytorch_lightning.strategies.DDPStrategy in both
    assert pytorch_lightning.loggers.Logger in both
    assert pytorch_lightning.callbacks.EarlyStopping in both
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    assert len(either(SIGTERMException)) == 2
    assert either(torch.nn.Linear) == (torch.nn.Linear,)  # of no package of Lightning


def test_a_package_that_is_not_imported_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_lightning"]:
        monkeypatch.delitem(sys.modules, name)
    assert either(pl.LightningModule) == (pl.LightningModule,)
    assert "pytorch_lightning" not in sys.modules


def test_overridden_hooks_are_found_in_both() -> None:
    class Theirs(pytorch_lightning.LightningDataModule):
        def val_dataloader(self) -> Any:
            return []

    assert overridden("val_dataloader", Theirs())
    assert not overridden("train_dataloader", Theirs())
