"""Single values of a configuration, by the names that a person gives them: ``trainer.callbacks.SAM.rho``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lit_ft.core.errors import ConfigError, nearest

Steps = tuple[str | int, ...]  # keys and numbers from the top of a configuration


@dataclass(frozen=True)
class PlacedValue:
    """Where a value stands, and what it is.

    Args:
        steps: The way to it.
        name: The same for a reader: without ``init_args``, members of lists by their class.
        value: What stands there.
    """

    steps: Steps
    name: str
    value: Any

    def is_called(self, key: str) -> bool:
        """Whether a person who writes this name means it: the short one, or the way to it as ``--show`` prints it."""
        return read_name(key) in (self.name, read_name(self.full))

    @property
    def full(self) -> str:
        """The way to it as configurations have it."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps).removeprefix(".")


def places(node: Any, steps: Steps = (), name: str = "") -> Iterator[PlacedValue]:
    """Every value of a configuration; a list of plain values is one.

    Args:
        node: A configuration, or what an overlay says of one.
        steps: The way to it.
        name: The same for a reader.

    Example:
        >>> mask = {"class_path": "GradientMask", "init_args": {"selection": {"init_args": {"seed": 3}}}}
        >>> [(place.name, place.value) for place in places({"trainer": {"callbacks+": [mask]}})][1:]
        [('trainer.callbacks.GradientMask.selection.seed', 3)]
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            part = "" if key == "init_args" else str(key).removesuffix("+")
            alone = part == "callbacks" and isinstance(value, Mapping)  # without a list
            yield from places(
                value, (*steps, key), ".".join(filter(None, (name, part, _class(value) if alone else "")))
            )
    elif isinstance(node, list) and any(isinstance(part, (Mapping, list)) for part in node):
        for number, value in enumerate(node):
            yield from places(value, (*steps, number), f"{name}.{_class(value) or number}")
    else:
        yield PlacedValue(steps, name, node)


def _class(node: Any) -> str:
    """The class that a node of a configuration names; empty for none."""
    path = node.get("class_path") if isinstance(node, Mapping) else None
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def read_name(text: str) -> str:
    """The name of a place as :func:`places` gives it: ``init_args`` may be written or not."""
    return ".".join(part for part in text.split(".") if part != "init_args")


def the_place(config: Mapping[str, Any], key: str, argument: str) -> PlacedValue:
    """The one place of a name.

    Args:
        config: A resolved configuration.
        key: Its name.
        argument: Where the name was given, for the error.

    Raises:
        ConfigError: There is none, or there are several.
    """
    every = list(places(config))
    found = [place for place in every if place.is_called(key)]
    if not found:
        raise ConfigError(
            argument, key, f"a value of the configuration{nearest(read_name(key), [p.name for p in every])}"
        )
    if len(found) > 1:
        raise ConfigError(argument, key, f"the name of one value; here are {', '.join(place.full for place in found)}")
    return found[0]


def changed(config: Mapping[str, Any], values: Mapping[Steps, Any]) -> dict[str, Any]:
    """A configuration with other values at some places.

    Example:
        >>> changed({"a": [{"b": 1}]}, {("a", 0, "b"): 2})
        {'a': [{'b': 2}]}
    """
    copy: dict[str, Any] = deepcopy(dict(config)) if values else dict(config)
    for steps, value in values.items():
        node: Any = copy
        for step in steps[:-1]:
            node = node[step]
        node[steps[-1]] = value
    return copy


def is_seed(place: PlacedValue) -> bool:
    """Whether a value is a seed, by its name: a split's, that of generated rows or of a random choice.

    Example:
        >>> [is_seed(PlacedValue((), name, 0)) for name in ("data.seed", "data.shot_seed", "seed_everything")]
        [True, True, False]
    """
    last = place.name.rpartition(".")[2]
    return type(place.value) is int and bool(re.fullmatch(r"(\w*_)?seed|random_state", last))


def drawn_by_the_seed(
    config: Mapping[str, Any], layers: Sequence[Any], seeded: Sequence[str] | None
) -> list[PlacedValue]:
    """The places that take a run's seed.

    Args:
        config: A resolved configuration.
        layers: What its files say; a seed that one of them writes stands.
        seeded: Names of places that take the seed, and no others do; None takes every seed that no file writes.
    """
    if seeded is not None:
        return [place for place in places(config) if any(place.is_called(key) for key in seeded)]
    mine = [place for layer in layers for place in places(layer) if is_seed(place)]
    written = {(place.name, place.value) for place in mine}
    return [place for place in places(config) if is_seed(place) and (place.name, place.value) not in written]
