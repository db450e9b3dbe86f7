"""A small, safe language for claims: numbers of arms over seeds, compared.

```
gd.ratio.mean in [0.85, 1.15]          an interval
sam.accuracy - adamw.accuracy > 0      paired over seeds
ratio(sam.seconds, adamw.seconds) < 2
increasing(small.sharpness, middle.sharpness, large.sharpness)
a.loss < b.loss and sd(a.loss) < 0.1
```
``arm.measure`` is the vector of a measure over seeds; arithmetic between vectors is paired by seed. A vector that is
compared counts by its mean.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lit_ft.core.errors import ConfigError, nearest

Values = Mapping[str, Mapping[str, np.ndarray]]

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
COMPARISON: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _sd(x: np.ndarray) -> float:
    return float(np.std(x, ddof=1)) if np.size(x) > 1 else 0.0


REDUCTIONS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "median": lambda x: float(np.median(x)),
    "sd": _sd,
    "min": lambda x: float(np.min(x)),
    "max": lambda x: float(np.max(x)),
}


def _steps(values: tuple[Any, ...]) -> np.ndarray:
    return np.diff([scalar(value) for value in values])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **REDUCTIONS,
    "abs": np.abs,
    "log": np.log,
    "ratio": lambda a, b: np.asarray(a) / np.asarray(b),
    "increasing": lambda *values: bool((_steps(values) > 0).all()),
    "decreasing": lambda *values: bool((_steps(values) < 0).all()),
}


def scalar(value: Any) -> float:
    """A number as it is, a vector over seeds by its mean."""
    return float(np.mean(value))


def parse(text: str) -> ast.expr:
    """The expression of a text, or an error that shows it."""
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError("expect", text, "an expression such as 'sam.accuracy - adamw.accuracy > 0'") from error


def check(text: str, arms: Mapping[str, Any], measures: Mapping[str, Any]) -> None:
    """Refuse names that do not exist, before anything runs."""
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
                given = ast.unparse(node.func)
                raise ConfigError(
                    "expect", f"{given} in {text!r}", f"{', '.join(FUNCTIONS)}{nearest(given, FUNCTIONS)}"
                )
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            _known("arm", node.value.id, arms, text)
            _known("measure", node.attr, measures, text)
        elif isinstance(node, ast.Attribute):
            _known("reduction", node.attr, REDUCTIONS, text)
        elif not isinstance(node, (ast.Name, ast.Constant, ast.List, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp,
                                   ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.expr_context)):  # fmt: skip
            raise ConfigError("expect", text, f"arithmetic, comparisons and {', '.join(FUNCTIONS)}")


def _known(what: str, name: str, names: Mapping[str, Any], text: str) -> None:
    if name not in names:
        raise ConfigError("expect", f"{what} {name!r} in {text!r}", f"{', '.join(names)}{nearest(name, names)}")


def evaluate(node: ast.expr, values: Values) -> Any:
    """The value of an expression: a truth, a number, or a vector over seeds."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name):
            return values[node.value.id][node.attr]
        return REDUCTIONS[node.attr](evaluate(node.value, values))
    if isinstance(node, ast.UnaryOp):
        value = evaluate(node.operand, values)
        return (not value) if isinstance(node.op, ast.Not) else -value
    if isinstance(node, ast.BinOp):
        return ARITHMETIC[type(node.op)](evaluate(node.left, values), evaluate(node.right, values))
    if isinstance(node, ast.BoolOp):
        parts = [bool(evaluate(part, values)) for part in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Call):
        return FUNCTIONS[node.func.id](*(evaluate(argument, values) for argument in node.args))  # type: ignore[attr-defined]
    if isinstance(node, ast.Compare):
        return _compare(node, values)
    raise ConfigError("expect", ast.unparse(node), "arithmetic, comparisons and functions")


def _compare(node: ast.Compare, values: Values) -> bool:
    left = scalar(evaluate(node.left, values))
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In):
            if not isinstance(right, ast.List) or len(right.elts) != 2:
                raise ConfigError("expect", ast.unparse(node), "an interval: x in [a, b]")
            low, high = (scalar(evaluate(end, values)) for end in right.elts)
            if not low <= left <= high:
                return False
            continue
        other = scalar(evaluate(right, values))
        if not COMPARISON[type(op)](left, other):
            return False
        left = other
    return True
