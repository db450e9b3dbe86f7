"""SWAG against the Gaussian that its iterates come from."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lit_ft.callbacks import SWAG, GradientMask
from lit_ft.core.batch_norm import update_batch_norm
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.flatness.swag import WeightGaussian
from lit_ft.testing import ForeignModule, fit_foreign


def test_gaussian_iterates_give_their_gaussian_back() -> None:
    """With many deviations the covariance of samples is half of the full one and half of its diagonal."""
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.5, 0, 0], [0, 0.3, 0.2, 0], [0, 0, 0, 2.0]])
    mean, covariance = torch.tensor([1.0, -2, 3, 100]), root @ root.T
    found = WeightGaussian(rank=4000)
    for _ in range(4000):
        found.add(mean + root @ torch.randn(4, generator=generator))
    assert torch.allclose(found.mean, mean, atol=0.1)
    assert torch.allclose(found.variance, covariance.diagonal(), rtol=0.1)
    samples = torch.stack([found.sample(generator) for _ in range(1500)])
    expected = 0.5 * covariance + 0.5 * covariance.diagonal().diag()
    assert torch.allclose(samples.mean(0), mean, atol=0.15)
    assert torch.allclose(samples.T.cov(), expected, atol=0.15, rtol=0.1)
    assert torch.equal(found.sample(generator, scale=0.0), found.mean)


def test_keeps_the_last_deviations() -> None:
    found = WeightGaussian(rank=3)
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for vector in vectors:
        found.add(vector)
    expected = [vectors[i] - vectors[: i + 1].mean(0) for i in (4, 5, 6)]
    assert torch.allclose(torch.stack(found.deviations), torch.stack(expected), atol=1e-6)
    assert torch.allclose(found.variance, vectors.var(0, correction=0), atol=1e-6)


class Remember(pl.Callback):
    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"start": 0.5, "every_n_steps": 4}, [12, 16, 20]),
        ({"start": 15, "every_n_steps": 2}, [16, 18, 20, 22]),
        ({"start": 0.0}, [11, 22]),
    ],
)
def test_collects_when_it_should(arguments: dict, steps: list[int]) -> None:
    swag, remember = SWAG(**arguments), Remember()
    fit_foreign([swag, remember])
    assert swag.weights.count == len(steps)
    assert torch.allclose(swag.weights.mean, torch.stack([remember.weights[i - 1] for i in steps]).mean(0), atol=1e-6)


def test_sampled_weights_go_and_come_back() -> None:
    swag = SWAG(start=0.0, every_n_steps=1)
    module, _ = fit_foreign([swag])
    x = torch.randn(64, 6)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    outputs = []
    for seed in (0, 0, 1):
        with swag.sampled(module, seed, batches=[x], forward=lambda m, b: m.model(b)):
            outputs.append(module.model.eval()(x))
            hidden = module.model[0](x)
            assert torch.allclose(module.model[1].running_mean, hidden.mean(0), atol=1e-5)
            assert torch.allclose(module.model[1].running_var, hidden.var(0), atol=1e-4)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_weights_that_were_frozen_in_training_are_not_sampled() -> None:
    swag = SWAG(start=0.0, every_n_steps=1)
    module, _ = fit_foreign([swag, GradientMask(Names(["4.*"]))])  # lets go of the flags when the fit ends
    before = {name: value.clone() for name, value in module.named_parameters()}
    with swag.sampled(module, 0):
        moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"model.4.weight", "model.4.bias"}


class SetFree(pl.Callback):
    """Trains the last layer, and after an epoch all of them."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        module.model[0].requires_grad_(trainer.current_epoch > 0)


def test_weights_that_are_set_free_after_the_first_collection_are_left_out(tmp_path: Path) -> None:
    swag = SWAG(start=0.0, every_n_steps=1)
    module, trainer = fit_foreign([SetFree(), swag])
    assert swag.weights.count == trainer.global_step
    assert "model.0.weight" not in swag.names
    last = torch.cat([module.get_parameter(name).detach().flatten() for name in swag.names])
    assert swag.weights.mean.shape == last.shape
    with pytest.raises(ConfigError, match=r"one without model\.1\.weight"), swag.sampled(nn.Linear(1, 1), 0):
        pass


def test_batch_norm_statistics_are_a_plain_mean() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3, momentum=0.1))
    batches = [torch.randn(8, 3) + i for i in range(5)]
    update_batch_norm(module, batches)
    assert torch.allclose(module[1].running_mean, torch.stack(batches).mean((0, 1)), atol=1e-5)
    assert module[1].momentum == 0.1
    assert module.training
    assert module[1].training


def test_refuses() -> None:
    for arguments in ({"start": 1.5}, {"every_n_steps": 0}, {"rank": 1}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            SWAG(**arguments)
    with pytest.raises(ConfigError, match="at least 2"), SWAG().sampled(ForeignModule(), 0):
        pass
