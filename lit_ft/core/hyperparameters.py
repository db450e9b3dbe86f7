"""Hyper-parameters are plain data: a checkpoint that holds a class or a function cannot be loaded safely again."""

from collections.abc import Mapping
from typing import Any


def is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, strings, None, lists and string-keyed mappings alone.

    Example:
        >>> is_plain({"lr": 0.1, "betas": [0.9, 0.95]}), is_plain({"loss": print})
        (True, False)
    """
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, as ``{dotted key: (old, new)}``; a key that one side lacks counts as None there.

    Example:
        >>> differences({"model": {"lr": 0.1}}, {"model": {"lr": 0.2}, "seed": 1})
        {'model.lr': (0.1, 0.2), 'seed': (None, 1)}
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        name, before, after = f"{path}{key}", old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{name}.")
        elif before != after:
            found[name] = (before, after)
    return found
