"""A claim's expectation as simple statements, each of one number over seeds and where it should lie."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lit_ft.core.errors import ConfigError
from lit_ft.studies.expression import ORDERS, REDUCTIONS, Values, evaluate, parse
from lit_ft.studies.interval import Interval

_ABOVE = {ast.Gt: False, ast.GtE: True}
_BELOW = {ast.Lt: False, ast.LtE: True}


@dataclass(frozen=True)
class Atom:
    """One number over seeds, and the region that it is said to be in.

    Args:
        text: The statement.
        side: What is measured, as an expression; of a ratio its two parts.
        low: Lower end of the region.
        high: Upper end of the region.
        closed: Whether the ends belong to the region.
        inside: Whether the number is said to lie inside of it, or outside.
    """

    text: str
    side: tuple[ast.expr, ...]
    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    inside: bool = True

    @property
    def is_ratio(self) -> bool:
        """Whether it is judged on logarithms, paired by seed."""
        return len(self.side) == 2

    def over_seeds(self, values: Values) -> np.ndarray:
        """One number a seed; of a ratio its logarithm."""
        with np.errstate(all="ignore"):
            first, *second = (np.asarray(evaluate(part, values), dtype=float) for part in self.side)
            return np.log(first) - np.log(second[0]) if second else first

    def shown(self, interval: Interval) -> Interval:
        """The interval in the units of the statement."""
        if not self.is_ratio:
            return interval
        mean, low, high = (_exp(x) for x in (interval.mean, interval.low, interval.high))
        return Interval(mean, low, high, interval.level)

    def says_of(self, interval: Interval) -> bool | None:
        """Whether the region holds the whole interval; None where the interval crosses an end of it."""
        low, high = (math.log(x) if x > 0 else -math.inf for x in (self.low, self.high)) if self.is_ratio else (
            self.low, self.high)  # fmt: skip
        if self.closed:
            within = low <= interval.low and interval.high <= high
            without = interval.high < low or interval.low > high
        else:
            within = (low < interval.low or low == -math.inf) and (interval.high < high or high == math.inf)
            without = interval.high <= low or interval.low >= high
        return self.inside if within else not self.inside if without else None

    def distance(self, mean: float) -> float:
        """From a mean to the nearest end of the region, in the units of ``over_seeds``."""
        ends = [x for x in (self.low, self.high) if math.isfinite(x)]
        ends = [math.log(x) for x in ends if x > 0] if self.is_ratio else ends
        return min((abs(mean - end) for end in ends), default=math.inf)


def atoms(text: str) -> list[Atom]:
    """The statements of an expectation, all of which must be true.

    Raises:
        ConfigError: It cannot be judged by an interval over seeds.

    Example:
        >>> [atom.text for atom in atoms("a.x < b.x < c.x and abs(a.y) < 1")]
        ['a.x - b.x < 0', 'b.x - c.x < 0', 'abs(a.y) < 1']
    """
    return list(_atoms(parse(text), text))


def _atoms(node: ast.expr, text: str) -> Iterator[Atom]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            yield from _atoms(part, text)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ORDERS:
        up = ast.unparse(node.func) == "increasing"
        for first, second in zip(node.args, node.args[1:], strict=False):
            yield _compared(first, ast.Lt() if up else ast.Gt(), second, text)
    elif isinstance(node, ast.Compare):
        for first, op, second in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            yield _compared(first, op, second, text)
    else:
        allowed = "comparisons joined by `and`, x in [a, b], increasing(...): what an interval over seeds can decide"
        raise ConfigError("expect", f"{ast.unparse(node)} in {text!r}", allowed)


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr, text: str) -> Atom:
    whole = ast.unparse(ast.Compare(left, [op], [right]))
    if isinstance(op, ast.In):
        assert isinstance(right, ast.List)
        low, high = (_constant(end, text) for end in right.elts)
        return Atom(whole, _side(left, text, low), low, high, closed=True)
    above = _ABOVE if type(op) in _ABOVE else _BELOW
    closed = above[type(op)]
    if (bound := _number(right)) is None:
        if (bound := _number(left)) is not None:  # 0.2 < a.x
            left, right, above = right, left, _BELOW if above is _ABOVE else _ABOVE
        elif parts := _ratio(left) or _ratio(right):
            raise ConfigError("expect", text, f"a number beside the ratio of {ast.unparse(parts[0])}")
        else:
            left, bound = ast.BinOp(left, ast.Sub(), right), 0.0
            whole = f"{ast.unparse(left)} {'>' if above is _ABOVE else '<'}{'=' * closed} 0"
    if isinstance(left, ast.Call) and ast.unparse(left.func) == "abs":
        if bound <= 0:
            raise ConfigError("expect", text, "abs(x) beside a number above 0")
        inside = above is _BELOW
        # outside of a closed region when the bound itself does not count
        return Atom(whole, _side(left.args[0], text), -bound, bound, closed if inside else not closed, inside)
    if above is _ABOVE:
        return Atom(whole, _side(left, text, bound), low=bound, closed=closed)
    return Atom(whole, _side(left, text, bound), high=bound, closed=closed)


def _side(node: ast.expr, text: str, *bounds: float) -> tuple[ast.expr, ...]:
    """What is measured: a vector over seeds, or the two of a ratio."""
    node = _without_mean(node)
    parts = _ratio(node)
    if parts and any(bound <= 0 for bound in bounds):
        raise ConfigError("expect", text, "a ratio beside a number above 0")
    for part in parts or (node,):
        for inner in ast.walk(part):
            name = inner.attr if isinstance(inner, ast.Attribute) and not isinstance(inner.value, ast.Name) else ""
            name = ast.unparse(inner.func) if isinstance(inner, ast.Call) else name
            if name in (*REDUCTIONS, *ORDERS):
                allowed = f"numbers of single seeds: no interval over seeds is known for {name}"
                raise ConfigError("expect", f"{ast.unparse(node)} in {text!r}", allowed)
        if not any(isinstance(inner, ast.Attribute) for inner in ast.walk(part)):
            raise ConfigError("expect", text, "arm.measure on one side of each comparison")
    return parts or (node,)


def _without_mean(node: ast.expr) -> ast.expr:
    """The vector whose mean is meant: vectors count by their means anyway."""
    if isinstance(node, ast.Attribute) and node.attr == "mean" and not isinstance(node.value, ast.Name):
        return node.value
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "mean":
        return node.args[0]
    return node


def _ratio(node: ast.expr) -> tuple[ast.expr, ...]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "ratio":
        return tuple(node.args)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _number(node.right) is None:
        return node.left, node.right
    return ()


def _number(node: ast.expr) -> float | None:
    """The value of an expression without arms."""
    if any(isinstance(inner, ast.Attribute) for inner in ast.walk(node)):
        return None
    with np.errstate(all="ignore"):
        return float(evaluate(node, {}))


def _constant(node: ast.expr, text: str) -> float:
    found = _number(node)
    if found is None:
        raise ConfigError("expect", text, "an interval of two numbers: x in [a, b]")
    return found


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
