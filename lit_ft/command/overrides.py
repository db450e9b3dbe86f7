"""What the parser cannot do: change one callback of a list, by the name of its class."""

from collections.abc import Sequence
from typing import Any

import yaml

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.yaml_text import read_yaml

FLAG = "--trainer.callbacks."
Override = tuple[str, str, str]  # class, key and value


def split_overrides(args: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Take ``--trainer.callbacks.NAME.KEY=VALUE`` out of arguments; NAME is a class, so it begins with a capital.

    Args:
        args: As on the command line; ``--flag value`` and ``--flag=value``.

    Returns:
        The other arguments, and ``(name, key, value)`` of each override in order.
    """
    rest: list[str] = []
    found: list[Override] = []
    pending = iter(args)
    for argument in pending:
        flag, given, value = argument.partition("=")
        name, _, key = flag.removeprefix(FLAG).partition(".")
        if flag.startswith(FLAG) and key and name[:1].isupper():
            found.append((name, key.removeprefix("init_args."), value if given else next(pending, "")))
        else:
            rest.append(argument)
    return rest, found


def override_callbacks(callbacks: Any, overrides: Sequence[Override]) -> list[dict[str, Any]]:
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
        try:
            place[last] = read_yaml(value)
        except yaml.YAMLError:  # a text, as for the parser
            place[last] = value
    return listed
