"""The path that dropout stability gives between two fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lit_ft.core.connectivity.paths import Path, State
from lit_ft.core.errors import ConfigError


def dropout_path(first: State, last: State, hidden: Sequence[str] | None = None, head: str = "head") -> Path:
    r"""From A to B in 4 d + 1 segments for d hidden layers; a loss that is convex in the logits peaks at a corner.

    .. math:: L(w(t)) \le \max\big(L(A), L(A_d), \dots, L(A_1), L(B_1), \dots, L(B_d), L(B)\big)

    :math:`A_i` is A with half of the units of each hidden layer from i on silent, and the outgoing weights of the other
    half doubled: dropout at its mean. The path has segments of two kinds. On some, silent units move, and the function
    stays as it is; on the others the head alone moves, from one half of the last layer to the other, and the loss is
    convex. From A the head first goes to one half of layer d, which makes :math:`A_d`. For i from d - 1 to 1, the
    silent units of the layers after i take over the weights of :math:`A_i`, and the head goes over to them. In the end
    one half of every layer is silent; there :math:`B_1` is put, the head goes over to it, and all is done backwards for
    B. Networks that were trained with dropout lose little with half of their units, so that their paths are low.

    With an odd number of units, the one in the middle is silent in both halves, and the factor is a little above 2.

    Source: "Explaining landscape connectivity of low-cost solutions for multilayer nets", 2019. Deviations: the halves
    are the first units of A and the last of B instead of the best ones, and the factor is that of dropout.

    Args:
        first: Parameters of A by name, in the order of the network.
        last: Those of B.
        hidden: Names of the linear maps into the hidden layers, from the input on; None takes all but the head. After
            each of them: any activation of single units, no normalisation, nothing that goes around a layer.
        head: Name of the linear map to the logits.
    """
    if hidden is None:
        weights = [name.removesuffix(".weight") for name in first if name.endswith(".weight")]
        hidden = [name for name in weights if name != head]
    layers = [*hidden, head]
    _check(first, layers)
    there, back = _halve(first, layers, 0), _halve(last, layers, 1)
    mixed = {name: tensor.clone() for name, tensor in there[-1].items()}
    for depth, layer in enumerate(hidden):
        rows = _half(len(mixed[f"{layer}.weight"]), (1 + depth) % 2)
        for name in _parts(mixed, layer):
            mixed[name][rows] = back[-1][name][rows]
    moved = {**mixed, **{name: back[-1][name] for name in _parts(mixed, head)}}
    return Path([*there, mixed, moved, *reversed(back)])


def _halve(state: State, layers: Sequence[str], kept: int) -> list[dict[str, Tensor]]:
    """Corners from a network to its half: after the stage of layer i, layer j >= i speaks from the half kept + j - i.

    Args:
        state: Parameters of the network.
        layers: Names of the linear maps; the last is the head.
        kept: The half of all layers that is enough: 0 are the first units, 1 the last.
    """
    *hidden, head = layers
    points = [dict(state)]
    for stage in reversed(range(len(hidden))):
        copied = dict(points[-1])
        for depth in range(stage + 1, len(hidden)):
            for name in _parts(state, layers[depth]):
                tensor = copied[name].clone()
                source = _read_from(state[name], kept, (kept + depth - 1 - stage) % 2)
                units = len(tensor)
                tensor[_half(units, (kept + depth - stage) % 2)] = source[_half(units, kept)]
                copied[name] = tensor
        if stage + 1 < len(hidden):
            points.append(copied)
        side = (kept + len(hidden) - 1 - stage) % 2
        points.append({**copied, **{name: _read_from(state[name], kept, side) for name in _parts(state, head)}})
    return points


def _read_from(tensor: Tensor, kept: int, side: int) -> Tensor:
    """A weight that reads copies of the kept units, which stand on a side, instead of all; a bias as it is."""
    if tensor.ndim == 1:
        return tensor
    units = tensor.shape[1]
    read = torch.zeros_like(tensor)
    read[:, _half(units, side)] = tensor[:, _half(units, kept)] * (units / (units // 2))
    return read


def _half(units: int, side: int) -> slice:
    return slice(units - units // 2, units) if side else slice(0, units // 2)


def _parts(state: State, layer: str) -> list[str]:
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in state]


def _check(state: State, layers: Sequence[str]) -> None:
    """Refuse what the theorem does not cover."""
    missing = [layer for layer in layers if f"{layer}.weight" not in state]
    if missing:
        raise ConfigError("hidden, head", ", ".join(missing), f"names of linear maps; found {', '.join(state)}")
    strange = set(state) - {name for layer in layers for name in _parts(state, layer)}
    weights = [state[f"{layer}.weight"] for layer in layers]
    chained = all(weight.ndim == 2 for weight in weights) and all(len(a) == b.shape[1] for a, b in pairwise(weights))
    if strange or not chained:
        allowed = "fully connected layers without normalisation, each reading the one before"
        raise ConfigError("first", ", ".join(sorted(strange) or layers), allowed)
    if len(layers) < 2 or any(weight.shape[1] < 2 for weight in weights[1:]):
        raise ConfigError("first", [weight.shape[1] for weight in weights[1:]], "hidden layers of two or more units")
