"""Python code that comes with a model runs if the command line of this run says so, never because of a file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace

from lit_ft.core.errors import ConfigError
from lit_ft.core.yaml_text import read_yaml

KEY = "trust_remote_code"


def refuse_unsaid(config: Namespace, args: Sequence[str]) -> None:
    """Refuse code that is to be trusted although the arguments of this run do not say so.

    Args:
        config: What was parsed from files and arguments.
        args: The arguments alone.

    Raises:
        ConfigError: With the argument to add.

    Example:
        >>> refuse_unsaid(Namespace(network={"trust_remote_code": True}), ["-c", "run.yaml"])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: network.trust_remote_code: given True; ... --network.trust_remote_code=true ...
        >>> refuse_unsaid(Namespace(network={"trust_remote_code": True}), ["--network.trust_remote_code=true"])
    """
    said = {_short(path) for flag, value in _flags(args) for path in _places(value, flag.removeprefix("--"))}
    for path in _places(config, ""):
        if _short(path) not in said:
            allowed = f"false in a file; where you have read the code, --{_short(path)}=true in the command of this run"
            raise ConfigError(path, True, allowed)


def _flags(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for argument, following in zip(args, [*args[1:], ""], strict=True):
        flag, given, value = argument.partition("=")
        value = value if given else following
        try:
            yield flag, read_yaml(value)
        except yaml.YAMLError:
            yield flag, value


def _places(node: Any, path: str) -> Iterator[str]:
    """Where remote code is trusted."""
    if path.rpartition(".")[2] == KEY and node not in (False, None):
        yield path
    if isinstance(node, Namespace):
        node = vars(node)
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _places(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _places(value, path)


def _short(path: str) -> str:
    """A place as it is written on the command line, without the class of a callback."""
    parts = [part.removesuffix("+") for part in path.split(".")]
    return ".".join(part for part in parts if part != "init_args" and not part[:1].isupper())
