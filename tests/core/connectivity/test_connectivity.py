from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_ft.core.connectivity import Path, dropout_path, linear_path, losses_along
from lit_ft.core.errors import ConfigError
from lit_ft.models.small import MLP, ConvNet

GRID = torch.linspace(0, 1, 51, dtype=torch.float64).tolist()


def state(network):
    return {name: p.detach() for name, p in network.named_parameters()}


def nets(width=6, **arguments):
    torch.manual_seed(0)
    return [MLP((4,), 3, width, 1, **arguments) for _ in range(2)]


def batches(classes=3):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 4, generator=generator)
    return [(rows[:25], (rows[:25, 0] > 0).long()), (rows[25:], (rows[25:, 0] > 0).long())]


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


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_dropout_path_keeps_its_bound(width, activation):
    a, b = nets(width, activation=activation)
    for network in (a, b):
        with torch.no_grad():
            network.head.weight.mul_(4)  # far from each other, so that the line between them is bad
    path = dropout_path(state(a), state(b))
    losses = losses_along(a, path, GRID, row_losses, batches())
    corners = losses[::10]
    assert max(losses) <= max(corners) + 1e-6
    assert losses[0] == pytest.approx(losses_along(a, linear_path(state(a), state(a)), [0.0], row_losses, batches())[0])
    assert all(torch.equal(path.at(1.0)[name], value) for name, value in state(b).items())
    # where units without a voice move, nothing changes
    assert losses[10:21] == pytest.approx([losses[10]] * 11, rel=1e-5)
    assert losses[30:41] == pytest.approx([losses[30]] * 11, rel=1e-5)


def test_the_halves_by_hand():
    a, b = nets(6)
    path = dropout_path(state(a), state(b))
    half = nets(6)[0]
    with torch.no_grad():
        half.head.weight[:, :3].mul_(2)
        half.head.weight[:, 3:] = 0
    assert all(torch.equal(path.points[1][name], value) for name, value in state(half).items())
    assert torch.equal(path.points[4]["head.weight"][:, 3:], 2 * b.head.weight[:, 3:])
    assert not path.points[4]["head.weight"][:, :3].any()


def halved(network, start, kept):
    """The network with one half of its hidden layers from a layer on, by hand: masks after each activation."""

    def run(x):
        for depth, block in enumerate(network.blocks):
            x = block(x)
            if depth >= start:
                mask, half = torch.zeros(x.shape[1]).to(x), x.shape[1] // 2
                mask[:half] = x.shape[1] / half
                x = x * (mask.flip(0) if kept else mask)
        return network.head(x)

    return run


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize(("depth", "activation"), [(2, "relu"), (3, "tanh"), (4, "relu")])
def test_the_path_of_several_layers_keeps_its_bound(width, depth, activation):
    torch.manual_seed(0)
    a, b = (MLP((4,), 3, width, depth, activation).double() for _ in range(2))
    for network in (a, b):
        with torch.no_grad():
            network.head.weight.mul_(4)
    batch = [(x.double(), y) for x, y in batches()]
    path = dropout_path(state(a), state(b))
    segments = 4 * depth + 1
    assert len(path.points) == segments + 1
    assert all(torch.equal(path.at(0.0)[name], value) for name, value in state(a).items())
    assert all(torch.equal(path.at(1.0)[name], value) for name, value in state(b).items())
    grid = torch.linspace(0, 1, 10 * segments + 1, dtype=torch.float64).tolist()
    losses = losses_along(a, path, grid, row_losses, batch)
    # the corners are the halved networks, made here by masks; between two of them silent units move
    x, y = (torch.cat(parts) for parts in zip(*batch, strict=True))
    nets = [a, *(halved(a, start, 0) for start in reversed(range(depth)))]
    nets += [*(halved(b, start, 1) for start in range(depth)), b]
    wanted = [F.cross_entropy(net(x), y).item() for net in nets]
    corners = losses[::10]
    firsts = [0, *range(1, 2 * depth, 2)]
    assert [corners[k] for k in [*firsts, *(segments - k for k in reversed(firsts))]] == pytest.approx(wanted, rel=1e-9)
    for k in range(1, segments - 1, 2):
        assert losses[10 * k : 10 * k + 11] == pytest.approx([corners[k]] * 11, rel=1e-9)
    assert max(losses) <= max(wanted) + 1e-9
    for k in range(0, segments, 2):
        assert {n for n in path.points[0] if not torch.equal(path.points[k][n], path.points[k + 1][n])} <= {
            "head.weight", "head.bias"}  # fmt: skip


def test_layers_of_different_widths_and_without_bias():
    torch.manual_seed(0)
    sizes = (4, 9, 6, 8, 3)
    a, b = (nn.Sequential(*(nn.Sequential(nn.Linear(p, q, bias=False), nn.Tanh() if q > 3 else nn.Identity())
            for p, q in pairwise(sizes))) for _ in range(2))  # fmt: skip
    path = dropout_path(state(a), state(b), head="3.0")
    losses = losses_along(a, path, torch.linspace(0, 1, 131).tolist(), row_losses, batches())
    assert max(losses) <= max(losses[::10]) + 1e-6
    assert max(losses) > min(losses) + 1e-3


def test_dropout_path_refuses():
    conv = ConvNet((1, 4, 4), 2, width=2, depth=1, batch_norm=True)
    with pytest.raises(ConfigError, match="fully connected"):
        dropout_path(state(conv), state(conv))
    with pytest.raises(ConfigError, match="fully connected"):
        dropout_path(state(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))), {}, ["0"], "2")
    with pytest.raises(ConfigError, match="head"):
        dropout_path(state(MLP((4,), 3, 6, 1)), {}, head="last")
    for depth, width in ((0, 6), (1, 1)):
        net = MLP((4,), 3, width, depth)
        with pytest.raises(ConfigError, match="two or more units"):
            dropout_path(state(net), state(net))


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
