"""The arguments of callbacks beside their saved states: what is written wins, and what cannot is refused."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, StochasticWeightAveraging, Timer

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.running.as_built import class_path, is_data, plain, same

MISSING = object()


def arguments(thing: Any, depth: int = 3) -> dict[str, Any]:
    """What an object was made with, as plain data, as far as it keeps it under the names of its arguments.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> arguments(EarlyStopping("val/loss", patience=5))["patience"]
        5
    """
    found: dict[str, Any] = {}
    for kind in type(thing).__mro__:
        own = vars(kind).get("__init__")
        for name in inspect.signature(own).parameters if inspect.isfunction(own) else ():
            value = vars(thing).get(_attribute(thing, name), MISSING)
            if value is not MISSING:
                found.setdefault(name, _told(value, depth))
    return found


def _attribute(thing: Any, name: str) -> str:
    """The attribute that keeps an argument; Lightning has some under an underscore."""
    return name if name in vars(thing) else f"_{name}"


def _told(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping) and not is_data(list(value.values())):
        return {str(key): _told(item, depth) for key, item in value.items()}
    if is_data(value):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_told(item, depth) for item in value]
    inner = arguments(value, depth - 1) if depth and not inspect.isroutine(value) else {}
    return {"class_path": class_path(value), "init_args": inner}


def saved_arguments(
    callbacks: Sequence[Callback], made_with: Mapping[str, dict[str, Any]], states: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Arguments that the saved state of a callback overrules, or that it was made by.

    Args:
        callbacks: The callbacks of a run.
        made_with: Their arguments before the run, by state key.
        states: Their states in a checkpoint.
    """
    found: dict[str, dict[str, Any]] = {}
    for callback in callbacks:
        key, state = callback.state_key, states.get(callback.state_key)
        names = {*(state if isinstance(state, Mapping) else ()), *_settled(callback)}
        kept = {name: value for name, value in made_with.get(key, {}).items() if state and name in names}
        if kept:
            found[key] = kept
    return found


def put_back(
    callbacks: Sequence[Callback], made_with: Mapping[str, dict[str, Any]], checkpoint: Mapping[str, Any], advice: str
) -> list[str]:
    """Give callbacks the arguments again that are written otherwise than in the run of a checkpoint.

    Args:
        callbacks: The callbacks, whose states were restored.
        made_with: Their arguments before that, by state key.
        checkpoint: The checkpoint.
        advice: What to do where the state was made by an argument.

    Returns:
        A line for each change.

    Raises:
        ConfigError: The state of a callback was made by an argument that is another one now.
    """
    known, lines = checkpoint.get("as_built", {}).get("callbacks", {}), []
    for callback in callbacks:
        key, name_of = callback.state_key, type(callback).__name__
        state = checkpoint.get("callbacks", {}).get(key)
        if not isinstance(state, Mapping):
            continue
        if isinstance(callback, StochasticWeightAveraging) and callback._scheduler_state:
            callback._scheduler_state["anneal_epochs"] = callback._annealing_epochs  # restored over what is written
        of_lightning = type(callback).__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        then = known.get(key, {name: value for name, value in state.items() if of_lightning})
        now = made_with.get(key, {})
        for name, old in then.items():
            if name not in now or same(plain(old) if is_data(old) else old, now[name]):
                continue
            if name in _settled(callback):
                allowed = f"{_short(old)}, by which its state was made; {advice}"
                raise ConfigError(f"{name_of}.{name}", _short(now[name]), allowed)
            own = _attribute(callback, name)
            if not same(_told(getattr(callback, own), 0), now[name]):  # restored over
                setattr(callback, own, now[name])
                lines.append(f"{name_of}.{name}: {old!r} -> {now[name]!r}")
    return lines


def _settled(callback: Callback) -> tuple[str, ...]:
    if isinstance(callback, either(StochasticWeightAveraging)):
        begun = callback._swa_scheduler is not None or callback._scheduler_state is not None  # type: ignore[attr-defined]
        return ("swa_epoch_start", "swa_lrs", "annealing_strategy") if begun else ()
    return callback.settled() if isinstance(callback, FitCallback) else ()


def stopping(callbacks: Sequence[Callback], made_with: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The arguments of the callbacks that may end a run, by state key."""
    ending = [one for one in callbacks if isinstance(one, either(EarlyStopping, Timer)) or getattr(one, "ends", False)]
    return {one.state_key: made_with.get(one.state_key, {}) for one in ending}


def stays_ended(checkpoint: Mapping[str, Any], made_with: Mapping[str, dict[str, Any]]) -> bool:
    """Whether what ended the run of a checkpoint, early stopping or another callback, is written as it was then."""
    states = {key: state for key, state in checkpoint["callbacks"].items() if key in made_with}
    then = checkpoint.get("as_built", {}).get("stopping", states)  # an older one tells what is in the states
    for key, one in then.items():
        now = made_with.get(key)
        if now is None or any(name in now and not same(old, now[name]) for name, old in one.items()):
            return False
    return True


def _short(value: Any) -> Any:
    """A value as a person writes it: classes by their names, without arguments that are None."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    given = {key: _short(item) for key, item in value["init_args"].items() if item is not None}
    return {value["class_path"].rpartition(".")[2]: given}


def of_callbacks(trainer: pl.Trainer) -> dict[str, dict[str, Any]]:
    """The arguments of every callback of a trainer, by state key."""
    return {callback.state_key: arguments(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
