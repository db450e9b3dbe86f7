"""Ranges and choices of arguments: written once, in the annotation, and checked for YAML and Python alike.

```python
def __init__(self, every_n_steps: PositiveInt = 10, product: Literal["a", "b"] = "a") -> None:
    super().__init__()
    checked(locals())
```
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lit_ft.core.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The finite numbers that an argument allows.

    Args:
        low: Least allowed number.
        high: Greatest allowed number.
        above: Lower bound that is itself excluded.
        below: Upper bound that is itself excluded.

    See also: :func:`checked`.

    Example:
        >>> share = Range(low=0, below=1)
        >>> 0 in share, 1 in share, str(share)
        (True, False, '0 or more and below 1')
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        """Whether a number is allowed."""
        above = self.above == -math.inf or value > self.above
        below = self.below == math.inf or value < self.below
        return math.isfinite(value) and self.low <= value <= self.high and above and below

    def __str__(self) -> str:
        """The range in words."""
        low, high = f"{self.low:,g} or more", f"{self.high:,g} or less"
        bounds = ((self.low, low), (self.high, high), (self.above, f"above {self.above:,g}"))
        words = [text for bound, text in (*bounds, (self.below, f"below {self.below:,g}")) if math.isfinite(bound)]
        return " and ".join(words) or "a finite number"


PositiveInt = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(low=0)]
ClosedUnitInterval = Annotated[float, Range(low=0, high=1)]
OpenUnitInterval = Annotated[float, Range(above=0, below=1)]


def checked(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a constructor that its annotations do not allow.

    Ranges and choices (``Literal``) are checked, with the other members of their union, also inside lists and mappings;
    arguments of other types are not.

    Args:
        arguments: ``locals()`` at the top of the constructor, after ``super().__init__()``; in ``__post_init__`` of a
            dataclass ``{"self": self, **vars(self)}``.

    Raises:
        ConfigError: A number is outside of its range, or a value is not among the choices.

    Example:
        >>> class Warmup:
        ...     def __init__(self, steps: PositiveInt = 100, shape: Literal["linear", "cosine"] = "linear") -> None:
        ...         checked(locals())
        >>> Warmup(steps=0)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: Warmup.steps: given 0; allowed: a whole number, 1 or more
        >>> Warmup(shape="step")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: Warmup.shape: given 'step'; allowed: linear or cosine
    """
    self = arguments["self"]  # by this name the error finds the class
    constructor = arguments.get("__class__", type(self)).__init__
    for name, kind in _annotations(constructor).items():
        if not _allowed(arguments[name], kind):
            raise ConfigError(name, arguments[name], _words(kind))


@cache
def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations with a range or choices."""
    found = {}
    for name, kind in function.__annotations__.items():
        if isinstance(kind, str):
            try:
                kind = eval(kind, vars(sys.modules[function.__module__]))
            except NameError:  # a name that is imported for type checkers only
                continue
        if name != "return" and _says_something(kind):
            found[name] = kind
    return found


def _says_something(kind: Any) -> bool:
    return get_origin(kind) in (Annotated, Literal) or any(_says_something(part) for part in get_args(kind))


def _allowed(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        number = isinstance(value, Integral if parts[0] is int else Real) and not isinstance(value, bool)
        return number and all(value in part for part in parts[1:])
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_allowed(value, part) for part in parts)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_allowed(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_allowed(item, parts[1]) for item in value.values())
    if kind is float:
        return isinstance(value, Real)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"a {'whole' if parts[0] is int else 'finite'} number, " + " and ".join(str(part) for part in parts[1:])
    if origin is Literal:
        return ", ".join(map(str, parts[:-1])) + " or " * (len(parts) > 1) + str(parts[-1])
    if origin in (Union, UnionType):
        return ", or ".join(_words(part) for part in parts)
    if origin in (list, tuple):
        return f"a list of: {_words(parts[0])}"
    if origin is dict:
        return f"a mapping to: {_words(parts[1])}"
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))
