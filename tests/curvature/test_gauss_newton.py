"""Gauss-Newton and Fisher matrices against per-example Jacobians."""

import pytest
import torch
from torch import nn

from lit_ft.core.curvature import Objective, OutputCurvature, leading_eigenpairs
from lit_ft.core.errors import ConfigError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def outputs(module, batch):
    return module(batch[0]), batch[1]


def jacobians(module, x):
    """``[rows, outputs, parameters]``."""
    values = {name: p.detach() for name, p in module.named_parameters()}
    rows = torch.func.vmap(
        torch.func.jacrev(lambda v, row: torch.func.functional_call(module, v, (row,))), in_dims=(None, 0)
    )(values, x)
    return torch.cat([rows[name].reshape(len(x), 3, -1) for name in values], dim=2)


@pytest.mark.parametrize("matrix", ["gauss_newton", "true_fisher", "empirical_fisher"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_equals_the_sum_over_jacobians_chunked_or_not(loss, matrix):
    module = network()
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(9) % 3
    target = y if loss == "cross_entropy" else nn.functional.one_hot(y, 3).double() * 0.7
    z = module(x).detach()
    if loss == "cross_entropy":
        p = z.softmax(-1)
        error, middle = p - nn.functional.one_hot(y, 3), torch.diag_embed(p) - p[:, :, None] * p[:, None]
    else:
        error, middle = z - target, torch.eye(3).double().expand(9, 3, 3)
    if matrix == "empirical_fisher":
        middle = error[:, :, None] * error[:, None]
    if loss == "cross_entropy" and matrix == "true_fisher":  # the definition: labels drawn from the model, enumerated
        scores = torch.eye(3).double()[None] - p[:, None]  # [rows, label, output]
        middle = torch.einsum("nl,nla,nlb->nab", p, scores, scores)
    j = jacobians(module, x)
    exact = torch.einsum("nap,nab,nbq->pq", j, middle, j) / 9
    for cuts in ([9], [4, 2, 3]):
        batches = list(zip(x.split(cuts), target.split(cuts), strict=True))
        objective = Objective(module, batches, lambda m, b: m(b[0]).sum())
        with objective.evaluating():
            operator = OutputCurvature(objective, outputs, loss, matrix)
            product = operator.apply(torch.eye(objective.size).double())
            assert operator.products == objective.size
            assert torch.allclose(product, exact, atol=1e-12)
            top = leading_eigenpairs(operator, torch.ones(1, objective.size).double(), 2, 1e-8)
        assert torch.allclose(top.values, torch.linalg.eigvalsh(exact).flip(0)[:2], atol=1e-8)


def test_ignored_targets_are_no_rows():
    module = network()
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    y = torch.tensor([[0, -100, 2], [1, 1, -100]])
    kept = y.reshape(-1) != -100
    vector = torch.randn(1, sum(p.numel() for p in module.parameters())).double()
    results = []
    for batch in ((x, y), (x.reshape(-1, 4)[kept], y.reshape(-1)[kept])):
        objective = Objective(module, [batch], lambda m, b: m(b[0]).sum())
        with objective.evaluating():
            results.append(OutputCurvature(objective, outputs).apply(vector))
    assert torch.allclose(*results, atol=1e-14)


def test_equals_the_hessian_of_a_linear_softmax_model():
    from lit_ft.core.curvature import Hessian

    module = nn.Linear(4, 3).double()
    batch = torch.randn(8, 4).double(), torch.arange(8) % 3
    objective = Objective(module, [batch], lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))
    vectors = torch.randn(3, 15).double()
    with objective.evaluating():
        assert torch.allclose(Hessian(objective).apply(vectors), OutputCurvature(objective, outputs).apply(vectors))


def test_refuses_unknown_words():
    objective = Objective(network(), [0], lambda m, b: 0)
    with pytest.raises(ConfigError, match="matrix"):
        OutputCurvature(objective, outputs, matrix="fisher")
    with pytest.raises(ConfigError, match="loss"):
        OutputCurvature(objective, outputs, loss="hinge")
