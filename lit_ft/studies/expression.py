"""A small, safe language for claims: numbers of arms over seeds, compared.

```
gd.ratio in [0.85, 1.15]               an interval
sam.accuracy - adamw.accuracy > 0      paired over seeds
ratio(sam.seconds, adamw.seconds) < 2
increasing(small.sharpness, middle.sharpness, large.sharpness)
a.loss < b.loss and abs(a.new - b.new) < 0.02
```
``arm.measure`` is the vector of a measure over seeds; arithmetic between vectors is paired by seed. A vector that is
compared counts by its mean. How such statements are judged: :mod:`lit_ft.studies.atoms`, :mod:`lit_ft.studies.verdict`.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lit_ft.core.errors import ConfigError, nearest

Values = Mapping[str, Mapping[str, np.ndarray]]

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,  # of numbers too: 1 / 0 is infinite and no error after hours of runs
    ast.Pow: np.float_power,
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


class NoNumber(ArithmeticError):
    """What is compared is no number: 0 / 0, or the loss of a run that diverged."""


def _steps(values: tuple[Any, ...]) -> np.ndarray:
    return np.diff([_number(value) for value in values])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **REDUCTIONS,
    "abs": np.abs,
    "log": np.log,
    "ratio": lambda a, b: np.asarray(a) / np.asarray(b),
    "increasing": lambda *values: bool((_steps(values) > 0).all()),
    "decreasing": lambda *values: bool((_steps(values) < 0).all()),
}


ORDERS = ("increasing", "decreasing")


def scalar(value: Any) -> float:
    """A number as it is, a vector over seeds by its mean."""
    return float(np.mean(value))


def _number(value: Any) -> float:
    number = scalar(value)
    if np.isnan(number):
        raise NoNumber
    return number


def parse(text: str) -> ast.expr:
    """The expression of a text, or an error that shows it."""
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError("expect", text, "an expression such as 'sam.accuracy - adamw.accuracy > 0'") from error


def check(text: str, arms: Iterable[str], measures: Iterable[str]) -> None:
    """Refuse what could not be evaluated, before anything runs.

    Args:
        text: The expression; it must say something that is true or false.
        arms: Names of the arms.
        measures: Names of the measures.
    """
    node = parse(text)
    _check_claim(node, text)
    _check(node, text, list(arms), list(measures))


def _check_claim(node: ast.expr, text: str) -> None:
    """Refuse what is a number, or numbers over seeds, where a truth is wanted."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_claim(node.operand, text)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            _check_claim(part, text)
    elif not isinstance(node, ast.Compare) and not (isinstance(node, ast.Call) and ast.unparse(node.func) in ORDERS):
        raise ConfigError("expect", text, "a comparison, such as 'sam.accuracy - adamw.accuracy > 0'")


def _check(node: ast.expr, text: str, arms: list[str], measures: list[str]) -> None:
    children: list[ast.expr] = []
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        _known("arm", node.value.id, arms, text)
        _known("measure", node.attr, measures, text)
    elif isinstance(node, ast.Attribute):
        _known("reduction", node.attr, REDUCTIONS, text)
        children = [node.value]
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        _known("function", name, FUNCTIONS, text)
        wanted = 2 if name in (*ORDERS, "ratio") else 1
        if node.keywords or len(node.args) < wanted or (len(node.args) > wanted and name not in ORDERS):
            raise ConfigError("expect", f"{ast.unparse(node)} in {text!r}", f"{wanted} values for {name}")
        children = node.args
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        children = [node.operand]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        children = [node.left, node.right]
    elif isinstance(node, ast.BoolOp):
        children = node.values
    elif isinstance(node, ast.Compare) and all(type(op) in COMPARISON or isinstance(op, ast.In) for op in node.ops):
        children = [node.left]
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In) and not (isinstance(right, ast.List) and len(right.elts) == 2):
                raise ConfigError("expect", text, "an interval of two ends: x in [a, b]")
            if isinstance(op, ast.In) and _is_reversed(right):
                raise ConfigError("expect", text, "an interval whose first end is not above the second")
            children += right.elts if isinstance(right, ast.List) and isinstance(op, ast.In) else [right]
    elif isinstance(node, ast.Name):
        raise ConfigError("expect", f"{node.id} in {text!r}", f"arm.measure, with the arms {', '.join(arms)}")
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise ConfigError("expect", f"{ast.unparse(node)} in {text!r}", "numbers, arm.measure, arithmetic, comparisons")
    for child in children:
        _check(child, text, arms, measures)


def _is_reversed(interval: Any) -> bool:
    try:
        low, high = ast.literal_eval(interval)
    except ValueError:  # ends that depend on the runs
        return False
    return bool(low > high)


def _known(what: str, name: str, names: Iterable[str], text: str) -> None:
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
    left = _number(evaluate(node.left, values))
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In):
            low, high = (_number(evaluate(end, values)) for end in right.elts)  # type: ignore[attr-defined]
            if not low <= left <= high:
                return False
            continue
        other = _number(evaluate(right, values))
        if not COMPARISON[type(op)](left, other):
            return False
        left = other
    return True
