import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_ft.flatness.perturbation import perturbation, perturbed
from lit_ft.inside.importance import gini, lorenz_curve
from lit_ft.metrics import ImportanceLorenz


def test_gini_by_its_definition():
    weights = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean_difference = (weights[:, None] - weights[None]).abs().mean()
    assert gini(weights).item() == pytest.approx((mean_difference / (2 * weights.mean())).item())
    assert gini(torch.ones(5)).item() == pytest.approx(0)
    assert gini(torch.tensor([0.0, 0.0, 0.0, 2.0])).item() == pytest.approx(0.75)
    assert gini(torch.zeros(4)).item() == 0
    assert lorenz_curve(torch.tensor([3.0, 1.0])).tolist() == [0.0, 0.25, 1.0]


def test_weights_are_the_size_of_the_gradient_by_the_logit():
    logits = torch.randn(12, 4, requires_grad=True)
    targets = torch.randint(4, (12,))
    F.cross_entropy(logits, targets, reduction="sum").backward()
    own = -logits.grad[torch.arange(12), targets]
    metric = ImportanceLorenz()
    metric.update(logits[:5], targets[:5])
    metric.update(logits[5:], targets[5:])
    assert metric.compute().item() == pytest.approx(gini(own).item(), rel=1e-5)


def test_uphill_the_weights_of_a_linear_model_are_more_even():
    """The mechanism that the paper describes, where it can be seen by eye: one hard row, many easy ones."""
    x = torch.tensor([[2.0], [2.0], [2.0], [2.0], [0.3]], dtype=torch.float64)
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.5], [-1.5]]))
    targets = torch.zeros(5, dtype=torch.long)
    at = {}
    gradient = torch.autograd.grad(F.cross_entropy(model(x), targets), [model.weight])
    for name, rho in (("w", 0.0), ("uphill", 1.0)):
        with perturbed([model.weight], perturbation(gradient, [model.weight], rho)):
            metric = ImportanceLorenz()
            metric.update(model(x), targets)
            at[name] = metric.compute().item()
    assert at["uphill"] < at["w"] - 0.05
