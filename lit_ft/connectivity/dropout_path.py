"""The path that dropout stability gives between two networks of fully connected layers and convolutions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_ft.connectivity.paths import Path, State
from lit_ft.core.errors import ConfigError


def dropout_path(
    first: State,
    last: State,
    hidden: Sequence[str] | None = None,
    head: str = "head",
    norms: Mapping[str, str] | None = None,
) -> Path:
    r"""A path from A to B in 4 d + 1 segments for d hidden layers; a loss convex in the logits is largest at a corner.

    .. math:: L(w(t)) \le \max\big(L(A), L(A_d), \dots, L(A_1), L(B_1), \dots, L(B_d), L(B)\big)

    :math:`A_i` is A with half of the units of each hidden layer from i on silent (their outgoing weights are 0), and
    the outgoing weights of the other half doubled, as dropout does on average. The path has two kinds of segments. On
    the first, only silent units change, and the function stays the same; on the second, only the head changes, from one
    half of the last layer to the other, and the loss is convex. From A the head first moves to one half of layer d,
    which gives :math:`A_d`. For i from d - 1 to 1, the silent units of the layers after i take over the weights of
    :math:`A_i`, and the head moves to them. Finally one half of every layer is silent; :math:`B_1` is written there,
    the head moves to it, and the same steps in reverse order lead to B. Networks trained with dropout lose little with
    half of their units, so that the loss along their paths is low.

    With an odd number of units, the middle one is silent in both halves, and the factor is a little above 2.

    The units of a convolution are its channels. The path only requires that the next layer reads units linearly and
    that nothing in between mixes them, which holds for convolutions, pooling and activations. It also holds for batch
    norm with statistics of the weights at t (``train_batches`` of ``losses_along``): the statistics of an active unit
    depend on its inputs, which do not change while silent units do. A, B and their halves then have such statistics
    too. It does not hold for layer norm, where silent units would change mean and variance.

    Source: "Explaining landscape connectivity of low-cost solutions for multilayer nets", 2019. Deviations: the halves
    are the first units of A and the last of B instead of the best ones, and the factor is that of dropout; batch norm
    is ours.

    Args:
        first: Parameters of A by name, in the order of the network.
        last: Parameters of B by name.
        hidden: Names of the linear maps and convolutions (of one group) into the hidden layers, from the input on; None
            takes all but the head. Between them are only maps of single units or channels, and no skip connections. A
            linear map that reads an image reads it channel by channel, in the order of ``flatten``.
        head: Name of the linear map to the logits.
        norms: Name of the norm after a hidden layer, by the name of the layer; it must normalise each channel on its
            own (batch norm, instance norm). ``unit_layers`` finds these names in a network.

    See also: :func:`~lit_ft.connectivity.unit_layers.unit_layers`, :func:`~lit_ft.connectivity.profile.losses_along`.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)) for _ in range(2))
        >>> path = dropout_path(dict(a.named_parameters()), dict(b.named_parameters()), head="2")
        >>> len(path.points)  # ends of the five segments of one hidden layer
        6
    """
    if hidden is None:
        weights = [name.removesuffix(".weight") for name in first if name.endswith(".weight")]
        hidden = [name for name in weights if name != head]
    layers = [_parts(first, layer, (norms or {}).get(layer)) for layer in (*hidden, head)]
    _check(first, layers, (*hidden, head))
    there, back = _halve(first, layers, 0), _halve(last, layers, 1)
    mixed = {name: tensor.clone() for name, tensor in there[-1].items()}
    for depth, names in enumerate(layers[:-1]):
        rows = _half(len(mixed[names[0]]), (1 + depth) % 2)
        for name in names:
            mixed[name][rows] = back[-1][name][rows]
    moved = {**mixed, **{name: back[-1][name] for name in layers[-1]}}
    return Path([*there, mixed, moved, *reversed(back)])


def _halve(state: State, layers: Sequence[Sequence[str]], kept: int) -> list[dict[str, Tensor]]:
    """Corners from a network to its half: after the stage of layer i, layer j >= i uses the half kept + j - i.

    Args:
        state: Parameters of the network.
        layers: Names of the parameters of each layer, its weight first; the last is the head.
        kept: The half that is kept in all layers: 0 for the first units, 1 for the last.
    """
    *hidden, head = layers
    units = [len(state[names[0]]) for names in hidden]
    points = [dict(state)]
    for stage in reversed(range(len(hidden))):
        copied = dict(points[-1])
        for depth in range(stage + 1, len(hidden)):
            for name in layers[depth]:
                tensor = copied[name].clone()
                source = _read_from(state[name], units[depth - 1], kept, (kept + depth - 1 - stage) % 2)
                tensor[_half(units[depth], (kept + depth - stage) % 2)] = source[_half(units[depth], kept)]
                copied[name] = tensor
        if stage + 1 < len(hidden):
            points.append(copied)
        side = (kept + len(hidden) - 1 - stage) % 2
        points.append({**copied, **{name: _read_from(state[name], units[-1], kept, side) for name in head}})
    return points


def _read_from(tensor: Tensor, units: int, kept: int, side: int) -> Tensor:
    """A weight that reads copies of the kept units, stored in one half, instead of all units; a bias as it is.

    Args:
        tensor: Weight of shape (outputs, units * positions, ...), or a bias of shape (outputs,).
        units: Units of the layer that it reads.
        kept: The half that is read.
        side: The half that holds the copies.
    """
    if tensor.ndim == 1:
        return tensor
    by_unit = tensor.unflatten(1, (units, -1))
    read = torch.zeros_like(by_unit)
    read[:, _half(units, side)] = by_unit[:, _half(units, kept)] * (units / (units // 2))
    return read.flatten(1, 2)


def _half(units: int, side: int) -> slice:
    return slice(units - units // 2, units) if side else slice(0, units // 2)


def _parts(state: State, layer: str, norm: str | None) -> list[str]:
    """The parameters with a number for each unit of a layer, the weight first."""
    places = [layer] if norm is None else [layer, norm]
    return [name for place in places for name in (f"{place}.weight", f"{place}.bias") if name in state]


def _check(state: State, layers: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Refuse what the theorem does not cover."""
    missing = [name for name in names if f"{name}.weight" not in state]
    if missing:
        raise ConfigError("hidden, head", ", ".join(missing), f"names of linear maps; found {', '.join(state)}")
    strange = set(state) - {name for parts in layers for name in parts}
    shapes = [state[parts[0]].shape for parts in layers]
    chained = all(len(shape) >= 2 for shape in shapes) and len(shapes[-1]) == 2 and all(map(_reads, shapes, shapes[1:]))
    by_unit = all(len(state[name]) == shape[0] for parts, shape in zip(layers, shapes, strict=True) for name in parts)
    if strange or not chained or not by_unit:
        allowed = (
            "linear maps and convolutions of one group, each reading the one before, with norms of single channels"
        )
        raise ConfigError("first", ", ".join(sorted(strange) or names), allowed)
    if len(layers) < 2 or any(shape[0] < 2 for shape in shapes[:-1]):
        raise ConfigError("first", [shape[0] for shape in shapes[:-1]], "hidden layers of two or more units")


def _reads(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a layer reads all units of the one before: a linear map may read several positions of a channel."""
    return after[1] == before[0] or (len(before) > 2 and len(after) == 2 and after[1] % before[0] == 0)
