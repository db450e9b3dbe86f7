import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_ft.connectivity.paths import Path, linear_path
from lit_ft.connectivity.profile import losses_along
from lit_ft.models.small import ConvNet

GRID = torch.linspace(0, 1, 51, dtype=torch.float64).tolist()


def state(network):
    return {name: p.detach() for name, p in network.named_parameters()}


def row_losses(network, batch):
    return F.cross_entropy(network(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("bezier", [True, False])
@pytest.mark.parametrize("points", [2, 3, 5])
def test_coefficients_sum_to_one_and_meet_the_ends(bezier, points):
    path = Path([{"w": torch.full((2,), float(k))} for k in range(points)], bezier)
    for t in GRID:
        assert sum(path.coefficients(t)) == pytest.approx(1)
        # control points at equal distances on a line: both curves run along it with constant speed
        assert path.at(t)["w"].tolist() == pytest.approx([t * (points - 1)] * 2, abs=1e-5)
    assert torch.equal(path.at(0.0)["w"], path.points[0]["w"])
    assert torch.equal(path.at(1.0)["w"], path.points[-1]["w"])


def test_a_quadratic_bezier_by_hand():
    a, b, c = (torch.randn(3, dtype=torch.float64) for _ in range(3))
    path = Path([{"w": a}, {"w": b}, {"w": c}], bezier=True)
    torch.testing.assert_close(path.at(0.3)["w"], 0.49 * a + 0.42 * b + 0.09 * c)
    chain = Path([{"w": a}, {"w": b}, {"w": c}])
    torch.testing.assert_close(chain.at(0.5)["w"], b)
    torch.testing.assert_close(chain.at(0.8)["w"], 0.4 * b + 0.6 * c)


def test_losses_along_a_quadratic():
    """L(t) = |x(t) - 1|^2 on the line from a to b, in closed form."""
    network = nn.Linear(1, 1, bias=False)
    path = linear_path({"weight": torch.tensor([[3.0]])}, {"weight": torch.tensor([[-1.0]])})
    one = [torch.ones(2, 1), torch.ones(3, 1)]
    found = losses_along(network, path, GRID, lambda net, x: (net(x) - 1).square()[:, 0], one)
    assert found == pytest.approx([(3 - 4 * t - 1) ** 2 for t in GRID], rel=1e-5, abs=1e-9)


def test_batch_norm_is_estimated_anew():
    torch.manual_seed(0)
    network = ConvNet((1, 4, 4), 2, width=2, depth=1, batch_norm=True)
    other = ConvNet((1, 4, 4), 2, width=2, depth=1, batch_norm=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows = [(3 + torch.randn(30, 1, 4, 4), torch.randint(2, (30,)))]
    path = linear_path(state(network), state(other))
    (anew,) = losses_along(network, path, [0.5], row_losses, rows, rows)
    by_hand = ConvNet((1, 4, 4), 2, width=2, depth=1, batch_norm=True)
    by_hand.load_state_dict({**before, **{n: (p + q) / 2 for (n, p), q in
                             zip(network.named_parameters(), other.parameters(), strict=True)}})  # fmt: skip
    norm = by_hand.blocks[0].norm
    with torch.no_grad():
        response = by_hand.blocks[0].convolution(rows[0][0])
        norm.running_mean.copy_(response.mean((0, 2, 3)))
        norm.running_var.copy_(response.var((0, 2, 3)))
    assert anew == pytest.approx(row_losses(by_hand.eval(), rows[0]).mean().item(), rel=1e-5)
    (stale,) = losses_along(network, path, [0.5], row_losses, rows)
    assert abs(stale - anew) > 0.01
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
