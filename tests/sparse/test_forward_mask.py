"""Masks over frozen weights, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.nn.utils import parametrize

from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.sparse.forward_mask import ForwardMask, StraightThroughMask, dropped_gradient, penalty_gradient
from lit_ft.sparse.weight_bits import load_bits, mask_weights_
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign


def test_forward_and_straight_through_gradient() -> None:
    layer = nn.Linear(3, 2, bias=False)
    weight = layer.weight.detach().clone()
    mask = StraightThroughMask(layer.weight, 0.01, 0.005)
    mask.scores.data[0, 1] = 0.0
    parametrize.register_parametrization(layer, "weight", mask)
    inputs, hard = torch.randn(4, 3), torch.ones(2, 3)
    hard[0, 1] = 0
    out = layer(inputs)
    assert torch.equal(out, inputs @ (weight * hard).T)
    out.square().sum().backward()
    assert torch.allclose(mask.scores.grad, (2 * out.detach()).T @ inputs * weight)  # type: ignore[arg-type]


def test_gradients_that_oppose_are_dropped() -> None:
    task, old = torch.tensor([2.0, 2.0, 2.0, -1.0]), torch.tensor([1.0, -2.0, -2.0, 3.0])
    draw = torch.tensor([0.99, 0.49, 0.51, 0.26])  # kept with probability 1, 1/2, 1/2 and 1/4
    assert torch.allclose(dropped_gradient(task, old, draw, 1.0), torch.tensor([2.0, 2.0, 0.0, 0.0]))
    assert torch.allclose(dropped_gradient(task, old, draw, 0.3), torch.tensor([2.0, 2.0, 1.4, -0.7]))


class _ReportsFirst(Callback):
    """Asks for the report at the end of training, before the other callback has its turn."""

    def __init__(self, other: ForwardMask) -> None:
        self.other, self.report = other, {}

    def on_train_end(self, *_: Any) -> None:
        self.report = self.other.report()


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_weights_stay_and_bits_load_back(tmp_path: Path, dropout: float) -> None:
    module = ForeignModule()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    callback = ForwardMask(
        Names(["model.0.weight"]), init=0.0051, penalty=0.1, dropout=dropout, output="model", bits="bits.safetensors"
    )
    early = _ReportsFirst(callback)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_steps=6, default_root_dir=tmp_path, callbacks=[early, callback], **quiet).fit(module, ForeignData())
    masks = load_bits(tmp_path / "bits.safetensors")
    (mask,) = masks.values()
    assert 0 < callback.report()["masked"] == int((~mask).sum())
    assert early.report == callback.report()
    for name, parameter in module.named_parameters():
        expected = start[name] * mask if name == "model.0.weight" else start[name]
        assert torch.equal(parameter, expected)
        assert parameter.requires_grad
    again = ForeignModule()
    again.load_state_dict(start)
    mask_weights_(again, masks)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def test_penalty_is_the_sum_of_euclidean_norms() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    scores.square().sum().sqrt().backward()
    assert torch.allclose(penalty_gradient(scores.detach()), scores.grad)  # type: ignore[arg-type]
    assert torch.equal(penalty_gradient(torch.zeros(2, 2)), torch.zeros(2, 2))


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_a_step_adds_the_penalty_before_dropout(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    """One step of SGD without a gradient of the task: the penalty's alone moves the scores, unless it is dropped."""

    class Still(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * 0.0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.5)

    callback = ForwardMask(Names(["*.weight"]), penalty=0.1, dropout=dropout, output="model")
    opposed = lambda trainer, module: [torch.full_like(m.scores, -1e9) for m in callback.masks.values()]  # noqa: E731
    monkeypatch.setattr(callback, "_distance_gradients", opposed)
    fit_foreign([callback], module=Still(), max_steps=1)
    assert len(callback.state_dict()) == 3
    for state in callback.state_dict().values():
        moved = 0.0 if dropout else 0.5 * 0.1 * 0.01 / (0.01 * state["scores"].numel() ** 0.5)
        assert torch.allclose(state["scores"], torch.tensor(0.01 - moved))


def test_the_distance_is_taken_in_the_precision_of_the_run() -> None:
    """As in training: by the module's own step, of an untouched batch, and under autocast."""
    seen: list[Any] = []

    class Watched(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step([batch.pop(0), batch.pop(0)], batch_idx)

        def validation_step(self, batch: Any) -> None:  # type: ignore[override]
            seen.append((self.model(batch[0]).dtype, torch.is_grad_enabled()))

    callback = ForwardMask(Names(["*.weight"]), init=0.006, dropout=1.0, output="model")
    fit_foreign([callback], module=Watched(norm=False), max_steps=2, precision="bf16-mixed", limit_val_batches=0)
    assert seen == 2 * [(torch.bfloat16, False), (torch.bfloat16, True)]


class Tied(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.model[4] = nn.Linear(12, 12)
        self.model.extend([nn.Linear(12, 12), nn.Linear(12, 3)])
        self.model[5].weight = self.model[4].weight


def test_tied_weights_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"4\.weight, tied: model\.4\.weight, model\.5\.weight"):
        fit_foreign([ForwardMask(Names(["model.4.weight"]))], module=Tied(), max_steps=1)
    fit_foreign([ForwardMask(Names(["model.0.weight"]))], module=Tied(), max_steps=1)


class _Broken(Callback):
    """Fails in the middle, and writes a checkpoint after all others have heard of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 6:
            raise RuntimeError("crash on purpose")

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def test_a_checkpoint_after_an_exception_goes_on(tmp_path: Path) -> None:
    def run(more: list[Any], **fit: Any) -> dict[str, Any]:
        callback = ForwardMask(Names(["*.weight"]), init=0.006)
        fit_foreign([callback, *more], max_epochs=1, **fit)
        return callback.state_dict()

    run([_Broken(tmp_path / "broken.ckpt")])
    saved = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    (kept,) = [value for key, value in saved["callbacks"].items() if key.startswith("ForwardMask")]
    start = ForeignModule().state_dict()
    assert set(kept) == {"0.weight", "1.weight", "4.weight"}
    for name, state in kept.items():
        assert torch.equal(state["weight"], start[f"model.{name}"])
        masked = state["weight"] * (state["scores"] > 5e-3)
        assert torch.equal(saved["state_dict"][f"model.{name}"], masked)
    resumed = run([], resume=tmp_path / "broken.ckpt")
    assert set(resumed) == set(kept)
    for name, state in resumed.items():  # still the whole weights below
        assert torch.equal(state["weight"], start[f"model.{name}"])


@pytest.mark.parametrize("other", [lambda: StochasticWeightAveraging(1e-2), EMAWeightAveraging])
def test_callbacks_that_pair_weights_by_position_are_refused(other: Any) -> None:
    with pytest.raises(ConfigError, match=r"beside ForwardMask.*averages"):
        fit_foreign([other(), ForwardMask(Names(["model.0.weight"]))])


def test_bad_input() -> None:
    for arguments in ({"init": 0.0}, {"penalty": -1.0}, {"dropout": 2.0}, {"dropout": 0.5}):
        with pytest.raises(ConfigError):
            ForwardMask(Names(["*"]), **arguments)
    with pytest.raises(ConfigError, match="masks"):
        mask_weights_(ForeignModule(), {"model.0.weight": torch.ones(1, 1, dtype=torch.bool)})


def test_an_output_that_is_never_called_is_named() -> None:
    class Unused(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="output: given 'unused'; allowed: a submodule that validation_step calls"):
        fit_foreign([ForwardMask(Names(["model.*.weight"]), init=0.006, dropout=1.0, output="unused")], module=Unused())
