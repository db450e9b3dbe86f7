"""The path that dropout stability gives between two networks of one hidden layer."""

from torch import Tensor

from lit_ft.core.connectivity.paths import Path, State
from lit_ft.core.errors import ConfigError


def dropout_path(first: State, last: State, hidden: str = "blocks.0.linear", head: str = "head") -> Path:
    r"""From A to B in five segments, on which a loss that is convex in the logits has its maximum at a corner.

    .. math:: L(w(t)) \le \max(L_A, L_{A/2}, L_{B/2}, L_B)

    :math:`A/2` is A with the second half of its hidden units silent and the outgoing weights of the first half doubled;
    :math:`B/2` is B with the halves the other way round. The segments: A to A/2 (output weights move: convex);
    the silent units take the incoming weights of B (nothing changes); A/2 to B/2 (output weights: convex); the first
    half takes those of B (nothing changes); B/2 to B. Networks that were trained with dropout lose little with half of
    their units, so that their paths are low.

    With an odd number of units, the one in the middle is silent in both halves, and the factor is a little above 2.

    Source: "Explaining landscape connectivity of low-cost solutions for multilayer nets", 2019. Deviation: one hidden
    layer, where the bound has no error term; the halves are the first and the last units instead of the best ones, and
    the factor is that of dropout.

    Args:
        first: Parameters of A by name.
        last: Those of B.
        hidden: Name of the linear map into the hidden units, weight (units, inputs). Between it and the head: any
            activation of single units, no normalisation.
        head: Name of the linear map that reads them, weight (classes, units).
    """
    read = f"{head}.weight"
    into = [name for name in first if name.startswith(f"{hidden}.")]
    for name in (read, f"{hidden}.weight"):
        if name not in first:
            raise ConfigError("hidden, head", (hidden, head), f"names of two linear maps; found {', '.join(first)}")
    strange = [name for name in first if name not in into and not name.startswith(f"{head}.")]
    if strange:
        raise ConfigError("first", ", ".join(strange), "a network of one hidden layer without normalisation")
    units = first[read].shape[1]
    half = units // 2
    if half == 0:
        raise ConfigError("first", f"{units} hidden unit", "two or more hidden units")

    def corner(incoming: State, outgoing: State, kept: slice | None) -> dict[str, Tensor]:
        point = {**{name: incoming[name] for name in into}, **{n: outgoing[n] for n in first if n not in into}}
        if kept is not None:
            silent = point[read].new_zeros(point[read].shape)
            silent[:, kept] = outgoing[read][:, kept] * (units / half)
            point[read] = silent
        return point

    front, back = slice(0, half), slice(units - half, units)
    mixed = {name: _front_of(first[name], last[name], units - half) for name in into}
    return Path(
        [
            corner(first, first, None),
            corner(first, first, front),
            corner(mixed, first, front),
            corner(mixed, last, back),
            corner(last, last, back),
            corner(last, last, None),
        ]
    )


def _front_of(front: Tensor, rest: Tensor, rows: int) -> Tensor:
    """The first rows of one tensor, the others of another."""
    mixed = rest.clone()
    mixed[:rows] = front[:rows]
    return mixed
