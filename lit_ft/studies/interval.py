"""Student's t interval of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np


@cache
def t_quantile(share: float, freedom: int) -> float:
    r"""The value below which a share of Student's t distribution lies.

    With :math:`x=\sqrt\nu\tan\theta` its distribution function is
    :math:`\tfrac12+\int_0^\theta\cos^{\nu-1}\big/\int_{-\pi/2}^{\pi/2}\cos^{\nu-1}`, a smooth integral.

    Args:
        share: Above 0.5, below 1.
        freedom: :math:`\nu`, at least 1.

    Example:
        >>> round(t_quantile(0.975, 1), 3), round(t_quantile(0.975, 7), 3)
        (12.706, 2.365)
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))

    def below(angle: float) -> float:
        area = float((np.cos((nodes + 1) * angle / 2) ** (freedom - 1) * weights).sum()) * angle / 2
        return 0.5 + area / whole

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with the ends of its interval.

    Args:
        mean: The mean.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that cover the true mean, where the noise is normal.
    """

    mean: float
    low: float
    high: float
    level: float


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Mean and interval of values, one a seed; of a single one the interval is the whole line.

    Args:
        values: One number a seed, paired where it is a difference.
        level: Share of intervals that cover.

    Example:
        >>> found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> found.mean, round(found.low, 2), round(found.high, 2)
        (3.0, 1.04, 4.96)
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if not np.isfinite(values).all():
        return Interval(mean, math.nan, math.nan, level)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, level)
    half = half_width(float(values.std(ddof=1)), len(values), level)
    return Interval(mean, mean - half, mean + half, level)


def half_width(sd: float, seeds: int, level: float) -> float:
    """Half of the width of an interval of so many seeds with this standard deviation among them."""
    return t_quantile((1 + level) / 2, seeds - 1) * sd / math.sqrt(seeds)


def seeds_for(distance: float, sd: float, level: float, most: int = 10_000) -> int | None:
    """How many seeds make the interval narrower than a distance on either side; None if more than ``most``.

    Example:
        >>> seeds_for(distance=1.0, sd=1.0, level=0.95)
        7
    """
    low, high = 1, 2
    while half_width(sd, high, level) >= distance:
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(sd, middle, level) < distance else (middle, high)
    return high
