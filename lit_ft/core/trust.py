"""What the values of a configuration may import and call.

A value becomes a class only where a class of that kind belongs: plain data stay plain data, and what makes an optimizer
is a class of optimizers or a function that says to return one. A *stored* configuration (that of a run folder, or the
hyper-parameters of a checkpoint) may come from anybody, so that it names only what is here anyway: this package, the
packages that it stands on, and modules that the user has named or imported.
"""

import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from jsonargparse import Namespace
from jsonargparse import _common as settings
from jsonargparse import _typehints as typehints
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_ft.core.errors import ConfigError

PACKAGES = (
    "lit_ft", "lightning", "torch", "transformers", "torchmetrics", "datasets", "peft", "safetensors", "gguf",
    "matplotlib", "sklearn", "rich",
)  # fmt: skip
"""This package and those that it depends on."""

_trusted: ContextVar[Collection[Any] | None] = ContextVar("trusted", default=None)


@contextmanager
def reading(
    stored: bool, named: Iterable[str] = (), imported: bool = False, networks: Collection[Any] | None = None
) -> Iterator[None]:
    """While values of a configuration are parsed, and objects made of them.

    Args:
        stored: Whether it is that of a run folder or checkpoint.
        named: Modules and classes that the user has named, which a stored configuration may name, too.
        imported: Whether it may also name whatever has been imported, as where Python asks.
        networks: Descriptions of networks that the caller gave; any other that trusts remote code is refused. None:
            this is checked elsewhere.

    Raises:
        ConfigError: A stored configuration names something else; it was not imported.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> from lit_ft.core.schedules import Schedule
        >>> parser = ArgumentParser(exit_on_error=False)
        >>> parser.add_subclass_arguments(Schedule, "schedule")
        >>> with reading(stored=True):
        ...     parser.parse_args(["--schedule=somebody.Schedule"])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: schedule: given 'somebody.Schedule'; allowed: ... --import somebody...
    """
    allowed = [*named, *(PACKAGES if stored else ()), *(_imported() if imported else ())]
    verdicts = settings.parsing_settings["import_path_verdicts"] | ({"*": False} if stored else {})
    verdicts |= {name: True for name in allowed if name.split(".")[0] != "jsonargparse"}
    before = dict(settings.parsing_settings)
    settings.parsing_settings.update(import_path_verdicts=verdicts, import_paths_enforced=True)
    parts: dict[str, Callable[..., Any]] = {
        "is_subclass_spec": _names_a_class,
        "adapt_partial_callable_class": _factory,
    }
    if stored:
        parts["import_object"] = partial(_object, set(allowed) - set(PACKAGES))
    original = {name: getattr(typehints, name) for name in parts}
    vars(typehints).update(parts)
    token = _trusted.set(networks)
    try:
        yield
    except Exception as error:
        if (cause := _cause(error)) is not None:  # the parser takes it for one of several types that do not fit
            raise cause from None
        refused = re.search(r"Importing '([\w.]+)' is not allowed", str(error))
        if refused is None:
            raise
        place = ".init_args.".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', str(error)))) or "class_path"
        raise ConfigError(place, refused[1], _allowed(refused[1], stored)) from error
    finally:
        _trusted.reset(token)
        settings.parsing_settings.update(before)
        vars(typehints).update(original)


def refuse_remote_code(argument: str, network: Any) -> None:
    """Refuse to run Python code that comes with a network because a stored configuration says so."""
    trusted = _trusted.get()
    if trusted is not None and network not in trusted:
        raise ConfigError(argument, True, "false in what was stored; true where this run or call says so itself")


def _cause(error: BaseException) -> ConfigError | None:
    inner = error.__cause__
    return inner if isinstance(inner, ConfigError) or inner is None else _cause(inner)


def _imported() -> list[str]:
    return [name for name in list(sys.modules) if not _is_here(name)]


def own_modules() -> list[str]:
    """What the user has imported of his own: neither of Python, nor of a package that is installed."""
    installed = tuple(f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("stdlib", "purelib", "platlib"))
    files = {name: getattr(sys.modules[name], "__file__", None) for name in _imported()}
    return [name for name, file in files.items() if not str(file or "").startswith(installed)]


def _is_here(name: str) -> bool:
    return name.split(".")[0] in {*sys.stdlib_module_names, *PACKAGES}


def _allowed(name: str, stored: bool) -> str:
    if not stored or _is_here(name):
        return "a class of the kind that belongs there"
    module = name.rpartition(".")[0]
    return (
        f"what is stored names only lit_ft and its dependencies, and what you name yourself: --import {module}, if you"
        " trust it (in Python, import it first, or hand the option on to load_run)"
    )


_is_subclass_spec, _adapt_partial_callable_class, _import_object = (
    typehints.is_subclass_spec,
    typehints.adapt_partial_callable_class,
    typehints.import_object,
)


def _names_a_class(value: Any) -> bool:
    """Whether the parser has found a class in this place; plain data are mappings, whatever their keys."""
    return isinstance(value, Namespace) and _is_subclass_spec(value)


def _object(named: Collection[str], path: str, check_path: bool = True) -> Any:
    """What a stored configuration names: a class, what makes an optimizer or schedule, or what the user named."""
    found = _import_object(path, check_path)
    is_named = any(f"{path}.".startswith(f"{name}.") for name in named)
    makes = inspect.isfunction(found) and typehints.function_returns_subclass(found, (Optimizer, LRScheduler), None)
    if check_path and not (inspect.isclass(found) or makes or is_named):
        raise ImportError(f"Importing '{path}' is not allowed")
    return found


def _factory(kind: Any, spec: Any) -> tuple[Any, Any]:
    """What is called with the missing arguments later: a class, or a function that says to return one of its kind.

    The parser itself would call any function that is named with ``class_path``, at once.
    """
    spec, skipped = _adapt_partial_callable_class(kind, spec)
    if skipped is not None:
        return spec, skipped
    returned = typehints.get_callable_return_type(kind)
    path = typehints.resolve_class_path_by_name(returned, spec.class_path) if returned else spec.class_path
    made = typehints.import_object(path)
    if inspect.isclass(made):  # the parser refuses one of another kind
        return spec, skipped
    kinds = typehints.get_subclass_types(returned) if returned else None
    if kinds and inspect.isfunction(made) and typehints.function_returns_subclass(made, kinds, None):
        return spec, {len(kind.__args__) - 1}
    raise ImportError(f"Expected '{spec.class_path}' to be a class, or a function that says to return {returned}.")
