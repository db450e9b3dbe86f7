"""A merge as it is written down: what of what, in a file that makes the same network again."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import formatannotation, signature
from typing import Any, Literal

import torch

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.plain import from_mapping
from lit_ft.merging.by_depth import SLERP, LayerSchedule, LayerSwap
from lit_ft.merging.by_entry import DARE, TIES, Breadcrumbs, ModelStock
from lit_ft.merging.graft import Graft
from lit_ft.merging.merge import LinearMerge, Merge, TaskArithmetic
from lit_ft.merging.write import bytes_of

WORDS: dict[str, type[Merge]] = {
    "linear": LinearMerge,
    "arithmetic": TaskArithmetic,
    "ties": TIES,
    "dare": DARE,
    "slerp": SLERP,
    "lines": LayerSchedule,
    "swap": LayerSwap,
    "breadcrumbs": Breadcrumbs,
    "stock": ModelStock,
    "graft": Graft,
}


@dataclass
class Recipe:
    """What is merged, and how.

    Args:
        merge: The class and its arguments, ``{class_path: TIES, init_args: {density: 0.2}}``; a word of the command
            (``ties``) will do where there are no arguments.
        inputs: Run folders, folders of ``transformers``, ``.safetensors`` files, ``packaged:NAME``, or recipes.
        base: What the inputs' changes are of; such a place, too.
        head: The input whose head and settings are kept, by its name or its number from 0.
        dtype: Type of the result; None is that of the inputs.
        shard_size: Most bytes of a file.

    Example:
        >>> recipe = Recipe.of({"merge": {"class_path": "TIES", "init_args": {"density": 0.3}}, "inputs": ["a", "b"]})
        >>> recipe.made().density
        0.3
        >>> Recipe.of({"merge": "tie", "inputs": ["a"]}).made()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: Recipe.merge: given 'tie'; allowed: linear, ... (did you mean 'ties'?)
    """

    merge: str | dict[str, Any]
    inputs: list[Any]
    base: str | None = None
    head: str | int | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    shard_size: str = "5GB"

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> "Recipe":
        """The recipe of plain data."""
        return from_mapping(cls, mapping, "recipe")

    def __post_init__(self) -> None:
        """Refuse a size that is none."""
        bytes_of(self.shard_size)

    @property
    def type(self) -> torch.dtype | None:
        """The type of the result."""
        return None if self.dtype is None else getattr(torch, self.dtype)

    def made(self) -> Merge:
        """The merge."""
        spec: dict[str, Any] = {"class_path": self.merge} if isinstance(self.merge, str) else self.merge
        classes = {**WORDS, **{kind.__name__: kind for kind in WORDS.values()}}
        name = str(spec.get("class_path", "")).rpartition(".")[2]
        if name not in classes or spec.keys() - {"class_path", "init_args"}:
            raise ConfigError("merge", self.merge, ", ".join(classes) + nearest(name, classes))
        return made(classes[name], spec.get("init_args") or {})


def made(kind: type[Merge], arguments: Mapping[str, Any]) -> Merge:
    """A merge from plain data, each value as its annotation wants it.

    Raises:
        ConfigError: An argument is unknown, missing or of another type.

    Example:
        >>> made(TIES, {"densty": 0.2})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: TIES.densty: given 0.2; allowed: density, ... (did you mean 'density'?)
    """
    from jsonargparse import ArgumentError, ArgumentParser

    known = signature(kind).parameters
    for key, value in arguments.items():
        if key not in known:
            raise ConfigError(f"{kind.__name__}.{key}", value, ", ".join(known) + nearest(key, known))
    absent = [key for key, one in known.items() if one.default is one.empty and key not in arguments]
    if absent:
        raise ConfigError(f"{kind.__name__}.{absent[0]}", None, "a value; it has no default")
    values = {}
    for key, value in arguments.items():
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{key}", type=known[key].annotation)
        try:
            values[key] = parser.parse_object({key: value})[key]
        except ArgumentError as error:
            raise ConfigError(f"{kind.__name__}.{key}", value, formatannotation(known[key].annotation)) from error
    return kind(**values)
