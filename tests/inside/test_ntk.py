"""The empirical tangent kernel against explicit Jacobians, steps of training, and closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.inside.ntk import EmpiricalNTK, KernelPredictor


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def jacobian(network: nn.Module, x: Tensor) -> Tensor:
    """Shape (rows, outputs, weights), by forward-mode products: another way than the kernel's own."""
    parameters = dict(network.named_parameters())

    def outputs(weights: Any) -> Tensor:
        return torch.func.functional_call(network, weights, (x,))

    found = torch.func.jacfwd(outputs)(parameters)
    return torch.cat([found[name].flatten(2) for name in parameters], dim=2)


@pytest.mark.parametrize("kind", ["sgd", "sign", "asymmetric"])
def test_equals_products_of_explicit_jacobians(network: nn.Module, kind: Any) -> None:
    kernel = EmpiricalNTK(network, X, list(network.parameters()), kind)
    own, other = jacobian(network, X), jacobian(network, OTHER)
    left = (lambda j: j.sign()) if kind == "sign" else (lambda j: j)
    right = own if kind == "sgd" else own.sign()
    expected = torch.einsum("map,nbp->manb", left(other), right)
    found, values = kernel.against(OTHER)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(values, network(OTHER).detach())
    matrix = kernel.matrix().reshape(12, 12)
    torch.testing.assert_close(matrix, torch.einsum("map,nbp->manb", left(own), right).reshape(12, 12))
    assert torch.allclose(matrix, matrix.T) is (kind != "asymmetric")
    if kind == "sgd":
        assert torch.linalg.eigvalsh(matrix).min() > -1e-9


@pytest.mark.parametrize("kind", ["sgd", "asymmetric"])
def test_foretells_one_step_of_training(network: nn.Module, kind: Any) -> None:
    """The step of each row's gradient (or its sign) moves other outputs by the kernel, to first order."""
    kernel, _ = EmpiricalNTK(network, X, list(network.parameters()), kind).against(OTHER)
    before, rate = network(OTHER).detach(), 1e-6
    chi = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction = jacobian(network, X)
    direction = direction if kind == "sgd" else direction.sign()
    step = -rate * torch.einsum("nb,nbp->p", chi, direction)
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(network.parameters()) + step, network.parameters()
        )
    moved = network(OTHER).detach() - before
    foretold = -rate * torch.einsum("manb,nb->ma", kernel, chi)
    assert (moved - foretold).norm() < 1e-3 * moved.norm()


def test_a_linear_network_ends_where_its_kernel_says(network: nn.Module) -> None:
    """More weights than rows, from a random start: gradient descent against the closed form."""
    torch.manual_seed(4)
    linear, x, y = nn.Linear(9, 2).double(), torch.randn(5, 9).double(), torch.randn(5, 2).double()
    new = torch.randn(4, 9).double()
    predicted = KernelPredictor(EmpiricalNTK(linear, x, list(linear.parameters())), y).predict(new)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.01)
    for _ in range(6000):
        optimizer.zero_grad()
        (linear(x) - y).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(predicted, linear(new).detach(), rtol=0, atol=1e-8)


def test_ridge_is_that_of_the_weights(network: nn.Module) -> None:
    """Kernel ridge regression equals ridge on the change of the weights of the linearised network."""
    kernel = EmpiricalNTK(network, X, list(network.parameters()))
    y = torch.randn(6, 2, generator=torch.Generator().manual_seed(5)).double()
    features = jacobian(network, X).flatten(0, 1)
    scale = (features.square().sum(1)).mean()
    gap = (y - network(X).detach()).flatten()
    inner = features.T @ features + 0.1 * scale * torch.eye(features.shape[1])
    change = torch.linalg.solve(inner, features.T @ gap)
    expected = network(OTHER).detach() + jacobian(network, OTHER) @ change
    torch.testing.assert_close(KernelPredictor(kernel, y, ridge=0.1).predict(OTHER), expected)


def test_change_and_drift(network: nn.Module) -> None:
    parameters = list(network.parameters())
    kernel, before = EmpiricalNTK(network, X, parameters), jacobian(network, X).detach()
    assert kernel.drift(X) == 0
    weights = [0.1 * torch.ones_like(p) for p in parameters]
    flat = torch.nn.utils.parameters_to_vector(weights)
    torch.testing.assert_close(kernel.change(weights), before @ flat)
    with torch.no_grad():
        for p, w in zip(parameters, weights, strict=True):
            p += w
    now = jacobian(network, X).detach()
    assert kernel.drift(X) == pytest.approx(float((now - before).norm() / before.norm()))


def test_drift_from_gradients_of_zero() -> None:
    """As those of an adapter's first half are while its second half is zero."""
    first, second = torch.ones(3, requires_grad=True), torch.zeros(3)
    kernel = EmpiricalNTK(lambda row: (row * first * second).sum(), [torch.ones(3)], [first])
    assert kernel.drift([torch.ones(3)]) == 0
    second += 1
    assert kernel.drift([torch.ones(3)]) == float("inf")


def test_bad_settings_are_refused(network: nn.Module) -> None:
    with pytest.raises(ConfigError, match="kind"):
        EmpiricalNTK(network, X, list(network.parameters()), "adam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rows"):
        EmpiricalNTK(network, X[:0], list(network.parameters()))
    with pytest.raises(ConfigError, match="ridge"):
        KernelPredictor(EmpiricalNTK(network, X, list(network.parameters())), torch.zeros(6, 2), -1.0)
    with pytest.raises(ConfigError, match="targets"):
        KernelPredictor(EmpiricalNTK(network, X, list(network.parameters())), torch.zeros(6))
