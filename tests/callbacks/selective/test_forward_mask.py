"""Masks over frozen weights, by hand."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn.utils import parametrize

from lit_ft.callbacks.selective.forward_mask import ForwardMask, StraightThroughMask, dropped_gradient
from lit_ft.core.errors import ConfigError
from lit_ft.core.networks.weight_bits import load_bits, mask_weights_
from lit_ft.core.selection import Names
from lit_ft.testing import ForeignData, ForeignModule


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


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_weights_stay_and_bits_load_back(tmp_path: Path, dropout: float) -> None:
    module = ForeignModule()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    callback = ForwardMask(
        Names(["model.0.weight"]), init=0.0051, penalty=0.1, dropout=dropout, output="model", bits="bits.safetensors"
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_steps=6, default_root_dir=tmp_path, callbacks=[callback], **quiet).fit(module, ForeignData())
    masks = load_bits(tmp_path / "bits.safetensors")
    (mask,) = masks.values()
    assert 0 < callback.report()["masked"] == int((~mask).sum())
    for name, parameter in module.named_parameters():
        expected = start[name] * mask if name == "model.0.weight" else start[name]
        assert torch.equal(parameter, expected)
        assert parameter.requires_grad
    again = ForeignModule()
    again.load_state_dict(start)
    mask_weights_(again, masks)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def test_bad_input() -> None:
    for arguments in ({"init": 0.0}, {"penalty": -1.0}, {"dropout": 2.0}, {"dropout": 0.5}):
        with pytest.raises(ConfigError):
            ForwardMask(Names(["*"]), **arguments)
    with pytest.raises(ConfigError, match="masks"):
        mask_weights_(ForeignModule(), {"model.0.weight": torch.ones(1, 1, dtype=torch.bool)})
