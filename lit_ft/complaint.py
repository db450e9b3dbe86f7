"""One clear line from an error: the YAML path, what was given, what is allowed, the nearest right name."""

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lit_ft.core.errors import ConfigError, nearest


def complaint(error: BaseException, arguments: Sequence[str] = ()) -> str | None:
    """The message for an error that the user can mend; None for any other error.

    Args:
        error: What was raised while a command ran.
        arguments: The arguments of the command, to find the place in its YAML files.
    """
    if isinstance(error, ConfigError):
        return _placed(error.owner, str(error), arguments)
    text = str(error)
    refused = re.search(r"^\s*- ((?:(\w+)\.)?[\w.]+: given .*; allowed: .*)$", text, re.MULTILINE)
    if refused:  # the parser tried the constructor as one of several types
        return _placed(refused[2], refused[1], arguments)
    if isinstance(error, (argparse.ArgumentError, ValueError)) and ("Parser key" in text or _from_parser(error)):
        return _parser_complaint(text)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or text}: no such file"
    if isinstance(error, yaml.YAMLError):
        return f"not valid YAML: {' '.join(text.split())}"
    if type(error).__name__ == "MisconfigurationException":
        return " ".join(text.split())
    return None


def _from_parser(error: BaseException) -> bool:
    return isinstance(error, argparse.ArgumentError)


def _placed(owner: str | None, message: str, arguments: Sequence[str]) -> str:
    path = next(_places(owner, arguments), None) if owner else None
    return message if path is None else f"{path}.init_args.{message.removeprefix(f'{owner}.')}  [{owner}]"


def _places(owner: str, arguments: Sequence[str]) -> Iterator[str]:
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, attached = flag.partition("=")
        if name in ("-c", "--config") and Path(attached or value).is_file():
            yield from _search(yaml.safe_load(Path(attached or value).read_text()), owner, "")


def _search(node: Any, owner: str, path: str) -> Iterator[str]:
    if isinstance(node, dict):
        if str(node.get("class_path", "")).rpartition(".")[2] == owner:
            yield path
        for key, value in node.items():
            yield from _search(value, owner, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _search(value, owner, f"{path}[{number}]")


def _parser_complaint(text: str) -> str:
    """Condense what jsonargparse says: the keys on the way down, then the innermost reason."""
    keys = re.findall(r'Parser key "([^"]+)"', text)
    classes = re.findall(r"given class_path '([\w.]+)'", text)
    if len(classes) > 1 and classes[-1] == "lightning.Callback":  # the parser's second try, one callback alone
        classes.pop()
    path = ".init_args.".join(keys)
    unknown = re.search(r"(?:Option|option) '([\w.-]+)'(?: is not accepted)?", text) or re.search(
        r"unrecognized arguments: --([\w.-]+)", text
    )
    if unknown:
        group = re.search(r"Group '([\w.]+)' does not accept", text)
        name = f"{group[1]}.{unknown[1]}" if group else unknown[1]
        return _unknown_key(name, path, classes)
    missing = re.findall(r"Expected a dot import path string: (\S+)", text)
    if missing:
        return _unknown_class(missing[0], path, text)
    value = re.search(r"Expected an? (.+?)\. Got value: (.+)", text)
    if value:
        kind = re.sub(r"<class '([\w.]+)'>|typing\.", lambda m: m[1] or "", value[1])
        return f"{path}: given {value[2]!r}; allowed: {kind}"
    first = text.split("Given value type", 1)[0]
    return f"{path}: " * (bool(path) and path not in first) + " ".join(first.split())


def _unknown_key(name: str, owner: str, classes: list[str]) -> str:
    head, _, key = name.rpartition(".")
    if classes and _is_function(classes[-1], owner.rpartition(".")[2]):
        return f"{owner}: given {key} alone; allowed: with a class_path, as its default is a function and not a class"
    known = _keys(classes[-1], head) if classes else _keys_of_section(head)
    place = ".".join(part for part in (owner if not classes else f"{owner}.init_args", head) if part)
    where = f"{place}.{key}" if place else key
    taker = f"{classes[-1].rpartition('.')[2]} takes" if classes and not head else "the keys"
    shown = known if len(known) <= 16 else get_close_matches(key, known, n=3, cutoff=0.3)
    allowed = f"{taker} {', '.join(shown)}{' ...' * (len(shown) < len(known))}" if known else "a known key"
    other = f"; of one in a list: --trainer.callbacks.CLASS.{key}" if owner == "trainer.callbacks" else ""
    return f"{where}: unknown key; allowed: {allowed}{nearest(key, known)}{other}"


def _keys(class_path: str, group: str) -> list[str]:
    """Arguments of a class, or of the dataclass that is the type of its argument ``group``."""
    module, _, name = class_path.rpartition(".")
    try:
        owner = getattr(import_module(module), name)
        parameters = dict(inspect.signature(owner).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    if group and group in parameters:
        owner = parameters[group].annotation
        parameters = dict(inspect.signature(owner).parameters) if inspect.isclass(owner) else {}
    return [key for key, value in parameters.items() if value.kind is not value.VAR_KEYWORD]


def _is_function(class_path: str, argument: str) -> bool:
    """Whether the default of a constructor's argument is a function, which has no arguments that YAML could set."""
    module, _, name = class_path.rpartition(".")
    try:
        default = inspect.signature(getattr(import_module(module), name)).parameters[argument].default
    except (ImportError, AttributeError, ValueError, TypeError, KeyError):
        return False
    return inspect.isfunction(default)


def _keys_of_section(section: str) -> list[str]:
    if section == "trainer":
        import lightning.pytorch as pl

        return list(inspect.signature(pl.Trainer).parameters)
    from lit_ft.run import RUN_KEYS

    return ["seed_everything", "model", "data", "trainer", *RUN_KEYS] if not section else []


def _unknown_class(name: str, path: str, text: str) -> str:
    bases = [base for base in re.findall(r"<class '([\w.]+\.[\w]+)'>", text) if not base.startswith("jsonargparse")]
    bases += ["torch.optim.optimizer.Optimizer"] * ("Optimizer" in text or path.endswith("optimizer"))
    names: set[str] = set()
    for base in bases[-2:]:
        module, _, cls = base.rpartition(".")
        names |= {
            c.__name__ for c in _subclasses(getattr(import_module(module), cls)) if not c.__name__.startswith("_")
        }
    hint = nearest(name, names)
    return f"{path}: given class {name!r}; allowed: a known short name or an import path{hint}; see lit-ft methods"


def _subclasses(base: Any) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        yield child
        yield from _subclasses(child)
