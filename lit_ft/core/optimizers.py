"""The default optimizer of a method, and optimizers that a callback leaves without parameters."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from lit_ft.core.errors import ConfigError

LARGEST = 1e30  # torch multiplies such a number before it makes it float32, which ends at 3e38


def adamw(params: Iterable[Any], lr: float = 1e-4, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    """AdamW at rate 1e-4 with decay 0.01.

    This is a function, not a class: in YAML, an optimizer of another class inherits the arguments that it shares with a
    default class, so that SGD would decay weights although nobody asked for it.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        weight_decay: Decoupled weight decay: a step shrinks each weight by the share ``lr * weight_decay``.

    Example:
        >>> optimizer = adamw([torch.zeros(1)], lr=1e-3)
        >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
        (0.001, 0.01)
    """
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)


def refuse_empty(module: Any, argument: str, given: Any) -> Callable[[], None]:
    """Explain an optimizer that gets no parameter, as torch does not know which callback froze them.

    Args:
        module: A LightningModule that is about to make its optimizers.
        argument: Name of the argument that decides which parameters train.
        given: Its value.

    Returns:
        A function that leaves the module as it was; called by itself when the optimizers are made.

    Example:
        >>> from lit_ft.testing import ForeignModule
        >>> module = ForeignModule()
        >>> module.configure_optimizers = lambda: torch.optim.SGD([], lr=1.0)
        >>> _ = refuse_empty(module, "selection", "Names")
        >>> module.configure_optimizers()
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: selection: given 'Names'; allowed: one that leaves each optimizer a parameter
    """
    own, make = module.__dict__.get("configure_optimizers"), module.configure_optimizers

    def release() -> None:
        module.__dict__.pop("configure_optimizers", None)
        if own is not None:
            module.__dict__["configure_optimizers"] = own

    def explained() -> Any:
        release()
        try:
            return make()
        except ValueError as error:
            if "empty parameter list" not in str(error):
                raise
            raise ConfigError(argument, given, "one that leaves each optimizer a parameter") from error

    module.__dict__["configure_optimizers"] = explained
    return release


def made(argument: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """What an optimizer or schedule of the user is made of, whose numbers must be such that it can be.

    Args:
        argument: Name of the argument that gave it.
        make: Makes it.
        arguments: What is known only now: parameters, or the optimizer.

    Raises:
        ConfigError: It refuses a value, or a number is not finite.

    Example:
        >>> from functools import partial
        >>> made("optimizer", partial(torch.optim.SGD, lr=float("nan")), [torch.zeros(1)])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: optimizer.lr: given nan; allowed: a finite number
    """
    given = getattr(make, "keywords", {})
    try:
        found = make(*arguments)
    except (ValueError, TypeError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        shown = ", ".join(f"{name} {value!r}" for name, value in given.items() if value is not None)
        text = " ".join(str(error).split())
        if "empty parameter list" in text:  # that is for whoever froze them to say
            raise
        refused = text.rpartition(": ")[2]
        at_fault = [
            name for name, value in given.items()
            if refused in map(str, value if isinstance(value, (list, tuple)) else [value])
        ]  # fmt: skip
        if len(at_fault) == 1:
            raise ConfigError(
                f"{argument}.{at_fault[0]}", given[at_fault[0]], f"a value that it takes; it says: {text}"
            ) from error
        raise ConfigError(argument, shown, f"values that it takes; it says: {text}") from error
    for name, value in {**given, **getattr(found, "defaults", {})}.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        sizes = [abs(number) for number in numbers if type(number) in (int, float)]
        if not all(map(math.isfinite, sizes)):
            raise ConfigError(f"{argument}.{name}", value, "a finite number")
        if max(sizes, default=0) > LARGEST:
            raise ConfigError(f"{argument}.{name}", value, f"a number of at most {LARGEST:g}, as weights are float32")
    return found
