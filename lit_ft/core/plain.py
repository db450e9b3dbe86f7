"""From plain data, as YAML has it, to a dataclass."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from inspect import formatannotation
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lit_ft.core.errors import ConfigError, nearest

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], place: str = "", **given: Any) -> T:
    """An object of a dataclass from a mapping of its fields.

    Args:
        cls: A dataclass.
        mapping: Values by the names of its fields; a field with a default may be absent.
        place: Name of the argument that holds the mapping, for error messages (``network``).
        given: Values of fields that the mapping must not have.

    Raises:
        ConfigError: A key is no field, a field has no value, or a value does not match its annotation.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from_mapping(Network, {"path": "gpt2", "dtype": "bfloat16"}, "network").path
        'gpt2'
        >>> from_mapping(Network, {"path": 2}, "network")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: network.path: given 2; allowed: str | None
    """
    kinds = get_type_hints(cls)
    own = {field.name: field for field in fields(cls) if field.name not in given}  # type: ignore[arg-type]
    if not isinstance(mapping, Mapping):
        raise ConfigError(place, mapping, f"a mapping with the keys {', '.join(own)}")
    dot = f"{place}." if place else ""
    for key, value in mapping.items():
        if key not in own:
            raise ConfigError(f"{dot}{key}", value, f"the keys {', '.join(own)}{nearest(str(key), own)}")
        if not fits(value, kinds[key]):
            raise ConfigError(f"{dot}{key}", value, formatannotation(kinds[key]))
    needed = [name for name, field in own.items() if field.default is field.default_factory is MISSING]
    for key in needed:
        if key not in mapping:
            raise ConfigError(f"{dot}{key}", None, f"a value; needed are {', '.join(needed)}")
    return cls(**mapping, **given)


def fits(value: Any, kind: Any) -> bool:
    """Whether plain data matches an annotation; a truth value is not a number.

    Example:
        >>> fits([1, 2], list[int]), fits(True, int), fits("mean", Literal["mean", "max"])
        (True, False, True)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if origin is Literal:
        return value in parts
    return any(fits(value, part) for part in parts) if parts else kind is Any or type(value) is kind
