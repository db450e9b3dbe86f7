"""Curves in weight space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from torch import Tensor

from lit_ft.core.errors import ConfigError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Path:
    r"""A curve :math:`w(t) = \sum_i c_i(t)\, w_i`, t in [0, 1], from its first to its last control point.

    A polygonal chain passes through its points at equal intervals of t; a Bezier curve of degree n has :math:`c_i(t) =
    \binom{n}{i} t^i (1 - t)^{n - i}` and passes through the first and the last point only. The coefficients sum to 1.
    Gradients flow into points that require them.

    Args:
        points: Control points, two or more: parameters by name.
        bezier: Whether it is a Bezier curve.

    See also: :func:`linear_path`, :func:`~lit_ft.connectivity.dropout_path.dropout_path`.

    Example:
        >>> points = [{"w": torch.tensor(value)} for value in (0.0, 1.0, 4.0)]
        >>> Path(points).at(0.75), Path(points, bezier=True).at(0.5)
        ({'w': tensor(2.5000)}, {'w': tensor(1.5000)})
    """

    points: Sequence[State]
    bezier: bool = False

    def __post_init__(self) -> None:
        """Refuse too few points, and points of different networks."""
        if len(self.points) < 2:
            raise ConfigError("points", len(self.points), "two or more")
        names = set(self.points[0])
        if any(set(point) != names for point in self.points):
            raise ConfigError("points", "networks with different parameters", "states of the same network")

    def coefficients(self, t: float) -> list[float]:
        """The coefficient of each control point at t."""
        degree = len(self.points) - 1
        if self.bezier:
            return [comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]
        return [max(0.0, 1 - abs(t * degree - i)) for i in range(degree + 1)]

    def at(self, t: float) -> dict[str, Tensor]:
        """The weights at t; at a control point of a chain exactly that point."""
        shares = [(share, point) for share, point in zip(self.coefficients(t), self.points, strict=True) if share]
        if len(shares) == 1:
            return dict(shares[0][1])
        return {name: sum(share * point[name] for share, point in shares) for name in self.points[0]}  # type: ignore[misc]


def linear_path(first: State, last: State) -> Path:
    """The straight line between two networks.

    Example:
        >>> linear_path({"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}).at(0.25)
        {'w': tensor(1.)}
    """
    return Path([first, last])
