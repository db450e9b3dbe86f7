"""What can be seen of a config before anything is imported: sections of another form, keys of a class misspelt."""

from difflib import get_close_matches
from typing import Any

from lit_ft.core.errors import ConfigError, nearest

_OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
_PLAIN = ("config",)  # what stands below has keys of its own


def check_shape(tree: dict[str, Any]) -> None:
    """Refuse a section that is no mapping, and keys that nothing reads where a class is named.

    Args:
        tree: A config.

    Raises:
        ConfigError: With the place of what was found.

    Example:
        >>> check_shape({"data": {"class_path": "Digits", "init_arg": {"batch_size": 8}}})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: data.init_arg: given {'batch_size': 8}; ... (did you mean 'init_args'?)
    """
    for section, others in (("trainer", ()), ("model", (str, type(None))), ("data", (str, type(None)))):
        given = tree.get(section, {})
        if not isinstance(given, (dict, *others)):
            what = (
                "a mapping of arguments" if section == "trainer" else "a class: its name, or class_path and init_args"
            )
            raise ConfigError(section, given, what)
        _check(given, section)
    model = tree.get("model")
    arguments = model.get("init_args") if isinstance(model, dict) else None
    if isinstance(arguments, dict) and not isinstance(arguments.get("network", {}), (dict, str)):
        raise ConfigError("model.init_args.network", arguments["network"], "a mapping with path or config")


def _check(node: Any, path: str) -> None:
    if isinstance(node, list):
        for number, value in enumerate(node):
            _check(value, f"{path}[{number}]")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        names_a_class = "class_path" in node or "init_args" in node
        if key not in _OF_A_CLASS and (names_a_class or get_close_matches(key, _OF_A_CLASS[:2], cutoff=0.8)):
            allowed = f"the keys class_path and init_args, below which arguments stand{nearest(key, _OF_A_CLASS[:2])}"
            raise ConfigError(f"{path}.{key}", value, allowed)
        if key not in _PLAIN:
            _check(value, f"{path}.{key}")
