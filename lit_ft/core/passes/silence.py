"""Nothing is logged while a module runs again."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
from torch import nn

from lit_ft.core.lightning import either
from lit_ft.core.method import Method
from lit_ft.core.passes.evaluating import tree


@contextmanager
def silence(trainer: Any, module: nn.Module) -> Iterator[None]:
    """Mute what modules log and print, and all that loggers and their experiments can be told.

    Muted are ``log``, ``log_dict`` and ``print`` of each LightningModule, and the public methods of the trainer's
    loggers (``log_metrics``, ``log_image``) and of their ``experiment`` (``add_scalar``, ``log``), wherever they are
    held.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> module, trainer = fit_foreign([], max_steps=1)
        >>> with silence(trainer, module):
        ...     module.print("nothing")
    """
    with ExitStack() as stack:
        kinds = either(pl.LightningModule)
        for child in tree(module):
            if isinstance(child, kinds):
                own = ("_follow_window",) if isinstance(child, Method) else ()
                stack.enter_context(_muted(child, ("log", "log_dict", "print", *own)))
        for logger in () if trainer is None else trainer.loggers:
            for told in (logger, getattr(logger, "experiment", None)):
                if isinstance(getattr(told, "__dict__", None), dict):
                    stack.enter_context(_muted(told, _public(type(told))))
        yield


_names: dict[type, tuple[str, ...]] = {}


def _public(kind: type) -> tuple[str, ...]:
    """The public methods of a class."""
    if kind not in _names:
        found = ((name, inspect.getattr_static(kind, name)) for name in dir(kind) if not name.startswith("_"))
        _names[kind] = tuple(name for name, value in found if inspect.isroutine(value))
    return _names[kind]


@contextmanager
def _muted(owner: Any, names: Sequence[str]) -> Iterator[None]:
    before = {name: owner.__dict__[name] for name in names if name in owner.__dict__}
    owner.__dict__.update(dict.fromkeys(names, _nothing))
    try:
        yield
    finally:
        for name in names:
            owner.__dict__.pop(name, None)
        owner.__dict__.update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Replaces a method that logs."""
