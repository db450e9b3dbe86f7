"""How each kind of object is kept: its contents, what is inside, and how the contents are put back.

What a step may write is plain: attributes, lists, dictionaries, arrays, random generators. Objects that only move on
(generators, files) cannot be put back; of them it is kept where they stand, so that a move is noticed.
"""

import array
import enum
import inspect
import io
import itertools
import logging
import operator
import pathlib
import queue
import random
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lit_ft.core.lightning import either

ROUTINES = frozenset(
    {types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType, types.LambdaType}
)
ATOMS = ROUTINES | {
    *(int, float, complex, bool, str, bytes, range, slice, type, object),
    *(type(None), type(Ellipsis), types.ModuleType, torch.dtype, torch.device, torch.Size, torch.layout),
}
"""Types of values that nothing is inside of and that do not change."""
OF_TORCH = frozenset(vars(nn.Module()))
NOT_STATE = OF_TORCH | {"_trainer", "_fabric"}

_THREADS = (threading.Thread, threading.Condition, threading.Event, threading.local, queue.Queue, queue.SimpleQueue)
_LOCKS = frozenset({type(threading.Lock()), type(threading.RLock())})
_APART = (type, enum.Enum, pathlib.PurePath, logging.Logger, inspect.Signature, weakref.ref)
_INTERNAL = ("torch._", "torch.fx", "torch.jit")
_LARGE = 1 << 24  # bytes of an array, of which a sample is compared

Put = Callable[[Any, Any], None]


class Kept(NamedTuple):
    """An object with its contents."""

    put: Put | None
    content: Any
    inside: Iterable[Any]


class Standing:
    """Where an object stands that can only move on.

    Example:
        >>> numbers = iter(range(3))
        >>> before = Standing(lambda: numbers.__reduce__())
        >>> before.moved(), next(numbers), before.moved()
        (False, 0, True)
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read, self._before = read, read()

    def moved(self) -> bool:
        """Whether it stands elsewhere now."""
        return not _same(self._read(), self._before)


def not_walked() -> tuple[type, ...]:
    """Classes whose objects belong to the run or hold data, so that a step does not write them."""
    of_run = (pl.Trainer, pl.LightningDataModule, pl.Callback, pl.loggers.Logger, pl.strategies.Strategy)
    return (*either(*of_run), Dataset, DataLoader, *_APART, *_THREADS)


def keep(value: Any) -> Kept | None:
    """The contents of an object that is neither a tensor nor a module; None where there is nothing to keep.

    Example:
        >>> numbers = [1, [2]]
        >>> put, content, inside = keep(numbers)
        >>> numbers.append(3)
        >>> put(numbers, content)
        >>> numbers, inside
        ([1, [2]], [1, [2]])
    """
    if isinstance(value, (tuple, frozenset)):
        return Kept(None, None, [*value, *_own(value).values()])
    if isinstance(value, (dict, list, set, deque, bytearray, array.array)):
        return _container(value)
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, torch.Generator):
        return Kept(_put_state, value.get_state(), ())
    if isinstance(value, random.Random):
        return Kept(random.Random.setstate, value.getstate(), ())
    if isinstance(value, np.random.RandomState):
        return Kept(lambda one, state: one.set_state(state), value.get_state(), ())
    if isinstance(value, np.random.BitGenerator):
        return Kept(lambda one, state: setattr(one, "state", state), value.state, ())
    if isinstance(value, np.random.Generator):
        return Kept(None, None, (value.bit_generator,))
    if type(value).__module__.startswith(_INTERNAL):
        return None
    own = _own(value)
    if own or hasattr(value, "__dict__") or _slots(type(value)):
        return None if any(type(one) in _LOCKS for one in own.values()) else _attributes(value, own)
    return None


def _container(value: Any) -> Kept:
    put: Put
    inside: Iterable[Any]
    content: Any
    if isinstance(value, dict):
        put, content, inside = _put_mapping, dict(value), value.values()
    elif isinstance(value, (list, bytearray, array.array)):
        put, content, inside = _put_sequence, value[:], value if isinstance(value, list) else ()
    else:
        put, content, inside = _put_items, value.copy(), value
    own = _own(value)
    if not own:
        return Kept(put, content, inside)

    def put_both(one: Any, content: Any) -> None:  # a subclass with attributes
        put(one, content)
        put_attributes(vars(one), own)

    return Kept(put_both, content, [*inside, *own.values()])


def _attributes(value: Any, own: dict[str, Any]) -> Kept:
    slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}

    def put(one: Any, content: dict[str, Any]) -> None:
        put_attributes(vars(one), content) if hasattr(one, "__dict__") else None
        for name, item in slots.items():
            object.__setattr__(one, name, item)

    return Kept(put, own, [*own.values(), *slots.values()])


def attributes(own: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an object that may be state: methods that were put into the object are none."""
    names = own.keys() - NOT_STATE  # a set first: most names of a small layer are torch's
    return {name: value for name in names if type(value := own[name]) not in ROUTINES}


def put_attributes(own: dict[str, Any], content: dict[str, Any]) -> None:
    """Put attributes back, and remove those that are new."""
    if len(own) > len(content):
        for name in attributes(own).keys() - content.keys():
            del own[name]
    own.update(content)


def place_of(value: Any) -> Standing | None:
    """Where an object stands that moves on and cannot be put back, such as a generator; None for all others.

    Example:
        >>> lines = (line for line in ["a", "b"])
        >>> place = place_of(lines)
        >>> next(lines), place.moved()
        ('a', True)
        >>> place_of([1])
    """
    if isinstance(value, types.GeneratorType):
        return Standing(lambda: _of_generator(value))
    if isinstance(value, io.IOBase):
        return Standing(lambda: None if value.closed or not value.seekable() else _tell(value))
    if type(value) in (itertools.count, itertools.repeat):
        return Standing(lambda: repr(value))
    if isinstance(value, Iterator) and type(value).__module__ == "builtins":
        return Standing(lambda: _of_iterator(value))
    if isinstance(value, np.ndarray) and value.nbytes > _LARGE:
        return Standing(lambda: value.reshape(-1)[:: max(1, value.size >> 14)].tobytes())
    return None


def _of_generator(value: types.GeneratorType) -> Any:
    frame = value.gi_frame
    return None if frame is None else (frame.f_lasti, dict(frame.f_locals))


def _of_iterator(value: Any) -> Any:
    try:
        parts = value.__reduce__()
    except TypeError:
        return None
    return [_of_iterator(part) if isinstance(part, Iterator) else part for part in _flat(parts)]


def _flat(parts: Any) -> list[Any]:
    return [item for part in parts for item in (_flat(part) if isinstance(part, tuple) else [part])]


def _tell(value: Any) -> Any:
    try:
        return value.tell()
    except OSError:  # a text file inside a loop over its lines
        return None


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) in ATOMS and a == b


def _own(value: Any) -> dict[str, Any]:
    own = getattr(value, "__dict__", None)
    return attributes(own) if isinstance(own, dict) else {}


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__[:-1]:
        names = base.__dict__.get("__slots__", ())
        names = [names] if isinstance(names, str) else names
        private = f"_{base.__name__.lstrip('_')}"
        found += [f"{private}{name}" if name.startswith("__") else name for name in names if not name.endswith("__")]
    return found


def _array(value: np.ndarray) -> Kept | None:
    if value.dtype == object:
        return Kept(np.copyto, value.copy(), list(value.flat))
    if value.nbytes > _LARGE or not value.flags.writeable:
        return None
    return Kept(np.copyto, value.copy(), ())


def _put_mapping(value: dict[Any, Any], content: dict[Any, Any]) -> None:
    same = len(value) == len(content) and all(map(operator.is_, value, content))
    if not same or not all(map(operator.is_, value.values(), content.values())):
        value.clear()
        value.update(content)


def _put_sequence(value: Any, content: Any) -> None:
    value[:] = content


def _put_items(value: Any, content: Any) -> None:
    value.clear()
    value.update(content) if isinstance(value, set) else value.extend(content)


def _put_state(value: torch.Generator, state: Any) -> None:
    value.set_state(state)
