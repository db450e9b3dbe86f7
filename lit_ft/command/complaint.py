"""One clear line from an error: the YAML path, what was given, what is allowed, the nearest right name."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from traceback import walk_tb
from typing import Any

import yaml

from lit_ft.command.names import known
from lit_ft.command.parser_complaint import parser_complaint
from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError, MissingColumn

OF_THE_RUN = ("data", "trainer")  # sections: no class has an argument of this name, but for some data


def complaint(error: BaseException, request: Request | None = None) -> str | None:
    """The message for an error that the user can mend; None for any other error.

    Args:
        error: What was raised while a command ran.
        request: What was asked for, to find the place in its configs; None where it could not be read.
    """
    configs = [config.tree for config in request.configs] if request else []
    if isinstance(error, MissingColumn) and (place := _naming(error.column, request)):
        what = error.allowed.partition("there are ")[2] or error.allowed
        return f"{place}: given {error.column!r}; allowed: a column of {error.given}: {what}"
    if isinstance(error, ConfigError):
        return _placed(error.owner, str(error), configs, error.given)
    text = str(error)
    refused = re.search(r"^\s*- ((?:(\w+)\.)?[\w.]+: given .*; allowed: .*)$", text, re.MULTILINE)
    if refused:  # the parser tried the constructor as one of several types
        return _placed(refused[2], refused[1], configs)
    if isinstance(error, argparse.ArgumentError) or (isinstance(error, ValueError) and "Parser key" in text):
        return parser_complaint(text)
    if text.startswith("Does not validate against any of the Union subtypes"):
        return _of_a_constructor(error, configs)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or text}: no such file"
    if isinstance(error, OSError) and error.filename:  # a folder in place of a file, no permission, a full disk
        return f"{error.filename}: {(error.strerror or text).lower()}"
    if isinstance(error, yaml.YAMLError):
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        return f"{mark.name}, line {mark.line + 1}: {problem}" if mark and problem else " ".join(text.split())
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not text in UTF-8: {error.reason} at byte {error.start}"
    return _raised_within(error)


def _of_a_constructor(error: BaseException, configs: Sequence[Any]) -> str | None:
    """What a class says of its arguments: the parser takes it for one of several types that do not fit."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    owners = [type(frame.f_locals["self"]).__name__ for frame in frames
              if frame.f_code.co_name == "__init__" and "self" in frame.f_locals]  # fmt: skip
    unexpected = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument", text)
    owner = unexpected[1] if unexpected else owners[-1] if owners else None
    place = owner and next((path for config in configs for path in _search(config, owner, "")), None)
    return f"{place or owner or 'a class'}: {text}"


def _raised_within(error: BaseException) -> str | None:
    """The message for an error of a library of which the place, and not the type, says that the user can mend it."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "MisconfigurationException":
        named = any(frame.f_code.co_qualname == "Trainer.__init__" for frame, _ in walk_tb(error.__traceback__))
        return f"trainer: {text}" if named else text
    if isinstance(error, OSError) and error.errno is not None:  # Lightning writes to files without a name
        return f"{error.strerror or text}".lower()
    for frame, _ in walk_tb(error.__traceback__):
        place = Path(frame.f_code.co_filename).name, frame.f_code.co_qualname
        if place == ("names.py", "import_own") and isinstance(error, (ImportError, ValueError)):
            return f"--import: {text}; allowed: a module that can be imported from this folder"
        if place == ("trainer.py", "Trainer.__init__") and isinstance(error, (ValueError, TypeError, ImportError)):
            return f"trainer: {text}"
        if isinstance(error, NotImplementedError) and place[1].startswith("Method."):
            return f"model: {text}; allowed: one of its subclasses, which lit-ft methods lists"
        if place == ("fit_loop.py", "_FitLoop.setup_data") and isinstance(error, ValueError):
            return f"trainer: {text}"
        if place == ("early_stopping.py", "EarlyStopping._validate_condition_metric"):
            return f"trainer.callbacks: {text}"
        if place == ("seed.py", "seed_everything") and isinstance(error, ValueError):
            return f"seed_everything: {text}"
        if place == ("serialization.py", "load") and isinstance(error, (RuntimeError, UnpicklingError, EOFError)):
            return f"{frame.f_locals['f']}: not a checkpoint that can be read"
        if "torch/optim" in frame.f_code.co_filename and "without overflow" in text:
            return f"optimizer: {text}; allowed: a rate, and other numbers, that float32 holds"
        if place == ("module.py", "Module.load_state_dict") and isinstance(error, RuntimeError):
            return f"the checkpoint does not fit the network: {str(error).splitlines()[-1].strip()}"
    return None


def _placed(owner: str | None, message: str, configs: Sequence[Any], given: object = None) -> str:
    path = owner and next((path for config in configs for path in _search(config, owner, "")), None)
    bare = message.removeprefix(f"{owner}.")
    if path and bare.partition(":")[0].split(".")[0] in OF_THE_RUN:
        return f"{bare}  [{owner}]"  # no argument of the class: what it says of another section
    if path:
        return f"{path}.init_args.{bare}  [{owner}]"
    argument = bare.partition(":")[0].split(".")  # what was given may stand in one place alone
    paths = [path for config in configs for path in _places(config, argument, given, "")]
    return f"{paths[0]}{bare}" if len(paths) == 1 else message


def _naming(column: str, request: Request | None) -> str:
    """The argument that names a column: on the command line, in a file, or by the default of the data module."""
    if request is None:
        return ""
    for argument, following in zip(request.args, [*request.args[1:], ""], strict=True):
        flag, given, value = argument.partition("=")
        if flag.startswith("--data.") and (value if given else following) == column:
            return flag.removeprefix("--")
    trees = [config.tree.get("data") for config in request.configs if isinstance(config.tree, dict)]
    for data in reversed(trees):
        arguments = data.get("init_args") if isinstance(data, dict) else None
        for name, value in (arguments or {}).items():
            if value == column:
                return f"data.init_args.{name}"
    names = [data if isinstance(data, str) else (data or {}).get("class_path", "") for data in reversed(trees)]
    for name in names:
        module = known().get(name.rpartition(".")[2], ("", ""))[1]
        kind = getattr(sys.modules.get(module), name.rpartition(".")[2], None)
        for argument, parameter in inspect.signature(kind).parameters.items() if kind else ():
            if parameter.default == column:
                return f"data.init_args.{argument}"
    return ""


def _places(node: Any, keys: Sequence[str], value: object, path: str) -> Iterator[str]:
    """The mappings of a configuration where ``keys`` lead to ``value`` or a list of it, each with a dot at its end."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    inner = node
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if inner is not None and (inner == value or (isinstance(inner, list) and value in inner)):
        yield path
    for name, child in children:
        yield from _places(child, keys, value, f"{path}{name}." if isinstance(node, dict) else f"{path[:-1]}[{name}].")


def _search(node: Any, owner: str, path: str) -> Iterator[str]:
    if isinstance(node, dict):
        if str(node.get("class_path", "")).rpartition(".")[2] == owner:
            yield path
        for key, value in node.items():
            yield from _search(value, owner, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _search(value, owner, f"{path}[{number}]")
