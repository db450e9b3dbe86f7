"""Callbacks of Lightning that act at the start of an epoch, in a run that resumes inside of it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    Callback,
    GradientAccumulationScheduler,
    LambdaCallback,
    StochasticWeightAveraging,
)
from torch import nn
from torch.optim import SGD

from lit_ft.classification.numbers import NoisyLinear
from lit_ft.classification.regression import Regression
from lit_ft.running.run_checkpoint import RunCheckpoint
from lit_ft.testing import ForeignModule, difference, fit_foreign

pytestmark = pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist:UserWarning")


class Backbone(ForeignModule):
    """Two parts; the optimizer gets what is not frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = self.model[:3], self.model[3:]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], 0.05, momentum=0.9)


class Scheduled(ForeignModule):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


class Flat(Scheduled):
    def __init__(self) -> None:
        super().__init__()
        self.model[1] = nn.Identity()


class Unfreezes(BaseFinetuning):
    """A part in each epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.model[:3], train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch in (1, 2):
            self.unfreeze_and_add_param_group(pl_module.model[2 - epoch], optimizer, lr=0.01)


def averaging() -> Callback:
    return StochasticWeightAveraging(0.02, swa_epoch_start=2, annealing_epochs=3)


KINDS: dict[str, tuple[Any, Any]] = {
    "accumulation": (lambda: GradientAccumulationScheduler({0: 1, 1: 2, 2: 3}), ForeignModule),
    "accumulation that falls": (lambda: GradientAccumulationScheduler({0: 3, 2: 1}), ForeignModule),
    "averaging": (averaging, Flat),
    "averaging with batch norm": (averaging, Scheduled),
    "averaging without a schedule": (averaging, ForeignModule),
    "linear averaging": (
        lambda: StochasticWeightAveraging([0.02], swa_epoch_start=1, annealing_strategy="linear"),
        Flat,
    ),
    "backbone": (lambda: BackboneFinetuning(1, backbone_initial_ratio_lr=0.5), Backbone),
    "parts": (Unfreezes, Backbone),
}


class Rows(Callback):
    """The step under which each batch is logged."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.seen.append(trainer.fit_loop.epoch_loop._batches_that_stepped)


def fit(folder: Path, kind: str, resume: Path | None = None, epochs: int = 4) -> tuple[dict[str, Any], list[int], int]:
    make, module = KINDS[kind]
    saves, rows = RunCheckpoint(None if resume else 4, keep=99, folder=str(folder)), Rows()
    trained, trainer = fit_foreign([saves, rows, make()], resume=resume, make_module=module, max_epochs=epochs)
    return dict(trained.state_dict()), rows.seen, trainer.global_step


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_resumed_run_is_the_whole_run(kind: str, tmp_path: Path) -> None:
    weights, rows, steps = fit(tmp_path / "whole", kind)
    saved = sorted((tmp_path / "whole").glob("*.ckpt"))
    for path in saved[1:-1:3]:
        told, seen, reached = fit(tmp_path / path.stem, kind, path)
        assert reached == steps, path.stem
        assert not difference(told, weights), path.stem
        assert seen == (rows[-len(seen) :] if seen else []), path.stem


@pytest.mark.parametrize("kind", ["accumulation", "accumulation that falls", "backbone", "parts"])
def test_a_finished_run_goes_on(kind: str, tmp_path: Path) -> None:
    weights, rows, _ = fit(tmp_path / "whole", kind)
    fit(tmp_path / "short", kind, epochs=2)
    told, seen, _ = fit(tmp_path / "rest", kind, max((tmp_path / "short").glob("*.ckpt")))
    assert not difference(told, weights)
    assert seen == rows[-len(seen) :]


def test_what_is_not_called_again_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def acts(trainer: Any, module: Any) -> None:
        pass

    folder = tmp_path / "whole"
    fit_foreign([RunCheckpoint(1, keep=99, folder=str(folder)), LambdaCallback(on_train_epoch_start=acts)])
    assert "on_train_epoch_start" not in capsys.readouterr().err
    saves = RunCheckpoint(None, folder=str(tmp_path / "rest"))
    fit_foreign([saves, LambdaCallback(on_train_epoch_start=acts)], resume=folder / "step=00000003.ckpt")
    assert capsys.readouterr().err.count("LambdaCallback: on_train_epoch_start was called for epoch 0") == 1


@pytest.mark.parametrize("kind", ["averaging", "averaging with batch norm", "averaging without a schedule"])
def test_the_last_checkpoint_holds_the_average(kind: str, tmp_path: Path) -> None:
    """It is what evaluations, exports and other runs take; a longer run goes on from the weights of the last step."""
    make, module = KINDS[kind]
    trained, _ = fit_foreign([RunCheckpoint(folder=str(tmp_path)), make()], make_module=module, max_epochs=4)
    last = max(tmp_path.glob("step=*.ckpt"))
    saved = torch.load(last, weights_only=True)
    assert not difference(saved["state_dict"], dict(trained.state_dict()))
    again, _ = fit_foreign([RunCheckpoint(folder=str(tmp_path)), make()], make_module=module, resume=last, max_epochs=4)
    assert not difference(dict(again.state_dict()), dict(trained.state_dict())), "nothing is left to train"
    if kind == "averaging":
        seen: list[Any] = []
        looks = LambdaCallback(on_train_start=lambda _, module: seen.append(module.model[0].weight.clone()))
        saves = RunCheckpoint(folder=str(tmp_path / "more"))
        fit_foreign([saves, make(), looks], make_module=module, resume=last, max_epochs=5)
        assert torch.equal(seen[0], saved["current_model_state"]["model.0.weight"])
        assert not torch.equal(seen[0], saved["state_dict"]["model.0.weight"])


@pytest.mark.parametrize("first", [True, False])
def test_a_network_that_is_built_late_is_averaged(first: bool, tmp_path: Path) -> None:
    """Lightning copies the module before ``configure_model``: of a method, nothing would be averaged, unsaid."""

    def method() -> Any:
        return Regression({"config": {"model_type": "mlp", "width": 4, "depth": 1}}, optimizer=partial(SGD, lr=0.05))

    def fit(folder: str, resume: Path | None = None) -> Any:
        saves, averages = RunCheckpoint(8, keep=9, folder=str(tmp_path / folder)), averaging()
        callbacks = [saves, averages] if first else [averages, saves]
        more = {"make_module": method, "make_data": NoisyLinear, "max_epochs": 4, "resume": resume}
        return dict(fit_foreign(callbacks, **more)[0].state_dict())

    whole = fit("whole")
    last = max((tmp_path / "whole").glob("step=*.ckpt"))
    saved = torch.load(last, weights_only=True)
    assert not difference(saved["state_dict"], whole)
    assert difference(saved["current_model_state"], whole), "those of the last step"
    assert not difference(fit("rest", tmp_path / "whole/step=00000024.ckpt"), whole)
