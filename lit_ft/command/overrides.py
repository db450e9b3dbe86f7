"""What stands on the command line beside the parser: values of a flag, and a callback of several by its class."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from lit_ft.core.errors import ConfigError, nearest

FLAG = "--trainer.callbacks."
YAML = "yaml of lit_ft"  # a mode of the parser


def values_of(args: Sequence[str], *flags: str) -> Iterator[str]:
    """What follows each of some flags, as ``--flag value`` or ``--flag=value``; empty where nothing does."""
    for argument, following in zip_longest(args, args[1:], fillvalue=""):
        name, given, value = argument.partition("=")
        if name in flags:
            yield value if given else following


def read_value(text: str) -> Any:
    """YAML, in which None is null: the parser writes so what it hands on to the parser of a class."""
    return None if text.strip() == "None" else get_loader("yaml")(text)


set_loader(YAML, read_value, (yaml.YAMLError,))  # a text that is no YAML is a text


def folder_name(name: str) -> str:
    """The value of ``--name``, which may not lead out of the folder of all runs."""
    if name in ("", "..") or name != Path(name).name:
        raise ConfigError("--name", name, "the name of a folder in runs/, not empty; --runs says where else")
    return name


def split_overrides(args: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Take ``--trainer.callbacks.NAME.KEY=VALUE`` out of arguments; NAME is a class, so it begins with a capital.

    Args:
        args: As on the command line; ``--flag value`` and ``--flag=value``.

    Returns:
        The other arguments, and ``(name, key, value)`` of each override in order.
    """
    rest: list[str] = []
    found: list[tuple[str, str, str]] = []
    pending = iter(args)
    for argument in pending:
        flag, given, value = argument.partition("=")
        name, _, key = flag.removeprefix(FLAG).partition(".")
        if flag.startswith(FLAG) and key and name[:1].isupper():
            found.append((name, key.removeprefix("init_args."), value if given else next(pending, "")))
        else:
            rest.append(argument)
    return rest, found


def override_callbacks(callbacks: Any, overrides: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """The callbacks of a configuration with the overrides in place.

    Args:
        callbacks: Plain data: a list of ``{class_path, init_args}``, one of them alone, or None.
        overrides: From ``split_overrides``; a value is read as YAML, a key may go on into a mapping (``a.b``).
    """
    listed = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    for name, key, value in overrides:
        named = [callback for callback in listed if callback["class_path"].rpartition(".")[2] == name]
        if len(named) != 1:
            known = [callback["class_path"].rpartition(".")[2] for callback in listed]
            allowed = f"a class that is once among the callbacks: {', '.join(known) or 'none'}{nearest(name, known)}"
            raise ConfigError(f"trainer.callbacks.{name}.{key}", name, allowed)
        *path, last = key.split(".")
        place = named[0].setdefault("init_args", {})
        for part in path:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return listed
