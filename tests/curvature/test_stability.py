"""Thresholds: a quadratic just below is stable under torch's own optimizer, just above it diverges."""

import pytest
import torch
from torch import nn

from lit_ft.curvature.stability import stability


def grows(make, curvature, steps=4000, freeze=None):
    """Whether steps on curvature * x^2 / 2 leave the minimum."""
    x = nn.Parameter(torch.tensor([1e-6], dtype=torch.float64))
    optimizer = make([x])
    for _ in range(steps):
        if freeze is not None:
            optimizer.state[x].update(freeze())
        x.grad = curvature * x.detach()
        optimizer.step()
        if abs(x.item()) > 1e-2:
            return True
    return abs(x.item()) > 1e-6


SGDS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.5, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.0, "dampening": 0.5},
]


@pytest.mark.parametrize("options", SGDS)
def test_sgd_diverges_just_above_the_threshold(options):
    def make(parameters):
        return torch.optim.SGD(parameters, **options)

    x = nn.Parameter(torch.zeros(1))
    found = stability(make([x]), [x])
    assert found.diagonal is None
    assert grows(make, found.threshold * 1.02)
    assert not grows(make, found.threshold * 0.98)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop(momentum):
    def make(parameters):
        return torch.optim.RMSprop(parameters, lr=0.1, momentum=momentum, alpha=1.0)

    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = make([x])
    x.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.step()
    optimizer.state[x]["square_avg"] = torch.tensor([9.0], dtype=torch.float64)  # alpha = 1 holds it still
    found = stability(optimizer, [x])
    assert torch.allclose(found.diagonal, torch.tensor([1 / 3.0]))

    def held(parameters):
        fresh = make(parameters)
        parameters[0].grad = torch.zeros(1, dtype=torch.float64)
        fresh.step()
        fresh.state[parameters[0]]["square_avg"] = torch.tensor([9.0], dtype=torch.float64)
        return fresh

    assert grows(held, 3 * found.threshold * 1.02)
    assert not grows(held, 3 * found.threshold * 0.98)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_divides_by_what_torch_divides_by(kind):
    x = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([x], lr=1e-3, betas=(0.8, 0.95), weight_decay=0.0)
    for step in range(1, 4):
        before = x.detach().clone()
        x.grad = torch.tensor([0.5, -0.1]) * step
        optimizer.step()
    found = stability(optimizer, [x])
    assert found.threshold == pytest.approx(18 / 1e-3)
    assert torch.allclose(before - 1e-3 * found.diagonal * optimizer.state[x]["exp_avg"], x, atol=1e-8)


def test_adam_diverges_just_above_the_threshold():
    b1, t = 0.9, 1e9  # past bias correction, with a preconditioner that stands still

    def make(parameters):
        return torch.optim.Adam(parameters, lr=1e-2, betas=(b1, 1 - 1e-15), eps=1.0)

    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = make([x])
    x.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.step()
    optimizer.state[x]["exp_avg_sq"].zero_()
    optimizer.state[x]["step"].fill_(t)
    found = stability(optimizer, [x])
    assert torch.allclose(found.diagonal, torch.ones(1))

    def held(parameters):
        fresh = make(parameters)
        parameters[0].grad = torch.zeros(1, dtype=torch.float64)
        fresh.step()
        fresh.state[parameters[0]]["step"].fill_(t)
        return fresh

    def freeze():
        return {"exp_avg_sq": torch.zeros(1, dtype=torch.float64)}

    assert grows(held, found.threshold * 1.02, freeze=freeze)
    assert not grows(held, found.threshold * 0.98, freeze=freeze)


def test_groups_with_several_rates_scale_the_matrix():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.025}], lr=1.0)
    found = stability(optimizer, [a, b])
    assert found.threshold == pytest.approx(20)
    assert torch.allclose(found.diagonal, torch.tensor([1.0, 1.0, 0.25]))


def test_unknown_cases_are_none():
    x = nn.Parameter(torch.zeros(1))
    assert stability(torch.optim.Adagrad([x]), [x]) is None
    assert stability(torch.optim.Adam([x]), [x]) is None  # no state yet
    assert stability(torch.optim.SGD([x], lr=0.0), [x]) is None
    assert stability(torch.optim.SGD([x], lr=0.1, maximize=True), [x]) is None

    class Changed(torch.optim.SGD):
        pass

    assert stability(Changed([x], lr=0.1), [x]) is None
    y = nn.Parameter(torch.zeros(1))
    mixed = torch.optim.SGD([{"params": [x], "momentum": 0.9}, {"params": [y]}], lr=0.1)
    assert stability(mixed, [x, y]) is None
