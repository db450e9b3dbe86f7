"""The central flow: its third derivative, and that it follows gradient descent where gradient flow leaves."""

import copy

import pytest
import torch
from torch import nn

from lit_ft.core.curvature import Objective, hessian_eigenvalues
from lit_ft.core.errors import ConfigError
from lit_ft.curvature.central_flow import CentralFlow, sharpness_gradient


def problem():
    """A small tanh network whose sharpness grows until one direction is at the edge."""
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:]
    module = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    return module, (x, y)


def loss(module, batch):
    return 0.5 * (module(batch[0]) - batch[1]).square().mean()


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_gradient_of_the_sharpness_is_its_difference_quotient():
    module, batch = problem()
    objective = Objective(module, [batch], loss)
    top = hessian_eigenvalues(module, [batch], 1, 1e-12, loss)
    with objective.evaluating():
        gradient = sharpness_gradient(objective, top.vectors[0])
    direction = torch.randn(objective.size, generator=torch.Generator().manual_seed(1)).double()
    sides = []
    for sign in (1, -1):
        moved = copy.deepcopy(module)
        with torch.no_grad():
            for p, piece in zip(moved.parameters(), objective.shaped(direction), strict=True):
                p += sign * 1e-5 * piece
        sides.append(float(hessian_eigenvalues(moved, [batch], 1, 1e-12, loss).values[0]))
    assert float(gradient @ direction) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)


def test_follows_gradient_descent_after_the_edge():
    module, batch = problem()
    rate, steps = 0.8, 60
    descent, followed, flow = (copy.deepcopy(module) for _ in range(3))
    central = CentralFlow(Objective(followed, [batch], loss), rate, substeps=2)
    plain = CentralFlow(Objective(flow, [batch], loss), rate, substeps=2, central=False)
    recent, oscillated = [], 0
    for step in range(steps):
        gradients = torch.autograd.grad(loss(descent, batch), list(descent.parameters()))
        with torch.no_grad():
            for p, g in zip(descent.parameters(), gradients, strict=True):
                p -= rate * g
        central.step()
        plain.step()
        oscillated += central.variance > 0
        if step >= steps - 3:
            recent.append(weights(descent))
    average = (recent[0] + 2 * recent[1] + recent[2]) / 4  # of an oscillation of period two
    assert oscillated > steps / 2
    assert central.sharpness == pytest.approx(2 / rate, rel=0.05)
    assert float(hessian_eigenvalues(flow, [batch], 1, 1e-4, loss).values[0]) > 1.5 * 2 / rate
    assert (average - weights(followed)).norm() < 0.5 * (average - weights(flow)).norm()


def test_refuses_bad_numbers():
    module, batch = problem()
    objective = Objective(module, [batch], loss)
    with pytest.raises(ConfigError, match="rate"):
        CentralFlow(objective, 0.0)
    with pytest.raises(ConfigError, match="substeps"):
        CentralFlow(objective, 0.1, substeps=1)
