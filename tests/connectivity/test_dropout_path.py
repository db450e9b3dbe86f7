"""The path of dropout stability against networks that are halved by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_ft.connectivity.dropout_path import dropout_path
from lit_ft.connectivity.paths import linear_path
from lit_ft.connectivity.profile import losses_along
from lit_ft.connectivity.unit_layers import unit_layers
from lit_ft.core.batch_norm import update_batch_norm
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


def images():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 1, 6, 5, generator=generator).double()
    y = torch.randint(3, (40,), generator=generator)
    return [(x[:25], y[:25]), (x[25:], y[25:])]


class Pooled(nn.Module):
    """Layers of different widths, without biases, averages over positions, an instance norm, and a linear map."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 5, 3, bias=False), nn.InstanceNorm2d(5, affine=True), nn.GELU(),
            nn.Conv2d(5, 8, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 4), nn.BatchNorm1d(4, momentum=0.3), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.layers(x))


NETWORKS = {
    "convolutions": (lambda: ConvNet((1, 6, 5), 3, 6, 3), ["blocks.0", "blocks.1", "blocks.2"]),
    "odd width": (lambda: ConvNet((1, 6, 5), 3, 5, 2, "tanh"), ["blocks.0", "blocks.1"]),
    "batch norm": (lambda: ConvNet((1, 6, 5), 3, 6, 2, batch_norm=True), ["blocks.0", "blocks.1"]),
    "batch norm, odd width": (lambda: ConvNet((1, 6, 5), 3, 5, 3, "silu", True), ["blocks.0", "blocks.1", "blocks.2"]),
    "linear maps behind": (Pooled, ["layers.2", "layers.4", "layers.9"]),
}


def one(make, seed):
    """A random network that is far from others, its norms included."""
    torch.manual_seed(seed)
    network = make().double()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_(0.3 * torch.randn_like(p)).mul_(2 if "head" in name or "out" in name else 1)
    return network


def by_hand(make, seed, places, start, kept):
    """The network with half of its units from a layer on, by masks on activations; its norms see the masked ones."""
    network = one(make, seed)
    for place in places[start:]:

        def silence(module, args, output):
            units = output.shape[1]
            mask = torch.zeros(units).to(output)
            mask[units - units // 2 :] = 1
            mask = (mask if kept else mask.flip(0)) * units / (units // 2)
            return output * mask.view(1, -1, *[1] * (output.ndim - 2))

        network.get_submodule(place).register_forward_hook(silence)
    update_batch_norm(network, images(), row_losses)
    return network.eval()


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_channels_as_units(kind):
    make, places = NETWORKS[kind]
    a, b = one(make, 0), one(make, 1)
    depth, data = len(places), images()
    segments = 4 * depth + 1
    path = dropout_path(state(a), state(b), *unit_layers(a))
    assert len(path.points) == segments + 1
    for end, t in ((a, 0.0), (b, 1.0)):
        assert all(torch.equal(path.at(t)[name], value) for name, value in state(end).items())
    # by brute force: the loss between the corners, and at random places
    grid = torch.linspace(0, 1, 6 * segments + 1, dtype=torch.float64).tolist()
    losses = losses_along(a, path, grid, row_losses, data, data)
    halved = [by_hand(make, 0, places, start, 0) for start in (depth, *reversed(range(depth)))]
    halved += [by_hand(make, 1, places, start, 1) for start in (*range(depth), depth)]
    with torch.no_grad():
        wanted = [torch.cat([row_losses(net, batch) for batch in data]).mean().item() for net in halved]
    corners = losses[::6]
    firsts = [0, *range(1, 2 * depth, 2)]
    found = [corners[k] for k in [*firsts, *(segments - k for k in reversed(firsts))]]
    assert found == pytest.approx(wanted, rel=1e-9)
    assert max(losses) <= max(wanted) + 1e-9
    for k in range(1, segments - 1, 2):  # silent units move
        assert losses[6 * k : 6 * k + 7] == pytest.approx([corners[k]] * 7, rel=1e-9)
    for k in range(0, segments, 2):
        head = unit_layers(a).head
        changed = {n for n in path.points[0] if not torch.equal(path.points[k][n], path.points[k + 1][n])}
        assert changed <= {f"{head}.weight", f"{head}.bias"}


def test_a_layer_norm_would_hear_silent_units():
    """Why it is refused: taken for a norm of single units, the function changes while silent units move."""

    def make():
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    a, b = one(make, 0), one(make, 1)
    path = dropout_path(state(a), state(b), ["0", "3"], "5", {"0": "1"})
    data = [(x.double(), y) for x, y in batches()]
    silent = losses_along(a, path, [(4 + i / 6) / 9 for i in range(7)], row_losses, data)
    assert max(silent) - min(silent) > 0.01
    with pytest.raises(ConfigError, match="LayerNorm"):
        unit_layers(a)


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, groups=4), nn.GLU(1), nn.MultiheadAttention(4, 1),
              nn.ConvTranspose2d(4, 4, 3), nn.PReLU(4), nn.Embedding(4, 4)],
)  # fmt: skip
def test_what_mixes_units_is_refused_by_name(layer):
    with pytest.raises(ConfigError, match=type(layer).__name__):
        unit_layers(nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Linear(4, 2)))


def test_refuses():
    conv = ConvNet((1, 4, 4), 2, width=2, depth=1, batch_norm=True)
    with pytest.raises(ConfigError, match="norms of single channels"):
        dropout_path(state(conv), state(conv))  # says nothing of its norm
    with pytest.raises(ConfigError, match="norms of single channels"):
        dropout_path(state(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))), {}, ["0"], "2")
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="norms of single channels"):
        dropout_path(state(flat), {}, *unit_layers(flat))
    with pytest.raises(ConfigError, match="head"):
        dropout_path(state(MLP((4,), 3, 6, 1)), {}, head="last")
    for depth, width in ((0, 6), (1, 1)):
        net = MLP((4,), 3, width, depth)
        with pytest.raises(ConfigError, match="two or more units"):
            dropout_path(state(net), state(net))
    with pytest.raises(ConfigError, match="linear maps or convolutions"):
        unit_layers(nn.ReLU())
