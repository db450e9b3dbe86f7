"""What an optimizer and its schedules were built with: told apart from what training has made of them.

A checkpoint restores every key of a parameter group, and with it the values that were written when the run began. Both
sides are therefore noted as they were *built*: a key that is built otherwise now was written otherwise, whatever
schedules and callbacks have done to it meanwhile.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


def as_built(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Optimizers and schedules of a trainer, before a step and before a checkpoint is restored, as plain data.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Told(pl.Callback):
        ...     def on_fit_start(self, trainer, module):
        ...         found = as_built(trainer, module)["optimizers"][0]
        ...         print(found["class"], found["groups"][0]["lr"], found["parameters"][0][:2])
        >>> _ = fit_foreign([Told()], max_steps=1)
        torch.optim.adamw.AdamW 0.01 ['model.0.weight', 'model.0.bias']
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizers = list(trainer.optimizers)
    return {
        "optimizers": [
            {
                "class": class_path(optimizer),
                "groups": [options(group) for group in optimizer.param_groups],
                "parameters": [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups],
            }
            for optimizer in optimizers
        ],
        "schedules": [
            {
                "class": class_path(config.scheduler),
                "optimizer": _place(optimizers, getattr(config.scheduler, "optimizer", None)),
                "interval": config.interval,
                "frequency": config.frequency,
                "state": plain(config.scheduler.state_dict()),
            }
            for config in trainer.lr_scheduler_configs
        ],
    }


def of_its_groups(checkpoint: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint that does not tell it was built with, as far as its groups of parameters show.

    The base of a schedule is in them, its functions are not: they count as others.

    Args:
        checkpoint: Of an earlier version, or of Lightning.
        now: How its optimizers are built now, see :func:`as_built`.
    """
    optimizers = []
    for state, one in zip(checkpoint["optimizer_states"], now["optimizers"], strict=False):
        groups = [options({**group, "lr": group.get("initial_lr", group["lr"])}) for group in state["param_groups"]]
        sizes = [len(group["params"]) for group in state["param_groups"]]
        alike = sizes == [len(names) for names in one["parameters"]]
        own = [{key for key in group if key != "initial_lr"} for group in (groups[0], one["groups"][0])]
        kind = one["class"] if own[0] == own[1] else "another.class"
        names = one["parameters"] if alike else [[None] * size for size in sizes]
        if alike:
            groups = [_based(group, new) for group, new in zip(groups, one["groups"], strict=True)]
        optimizers.append({"class": kind, "groups": groups, "parameters": names})
    schedules = now["schedules"][: len(checkpoint["lr_schedulers"])]
    unknown = [{"class": one["class"], "factors": [float("nan")]} for one in schedules]
    return {"optimizers": optimizers, "schedules": schedules, "reached": unknown}


def _based(group: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A group with its base under the names of one of now, whose rate is the first value of a schedule."""
    if "initial_lr" not in new:
        return group
    base = group["lr"]
    return {**group, "initial_lr": base, "lr": new["lr"] if same(base, new["initial_lr"]) else base}


def reached(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """For each schedule its class, and the values of its functions at the step reached.

    A checkpoint holds no functions. Their values tell whether the length of the run, or anything else that they read,
    is another one.
    """
    found = []
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        found.append({"class": class_path(scheduler), "factors": factors(scheduler, scheduler.state_dict())})
    return found


def factors(scheduler: Any, state: Mapping[str, Any]) -> list[float]:
    """Values of the functions of a ``LambdaLR`` (also inside another schedule) up to the count in ``state``.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halved = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        >>> factors(halved, {"last_epoch": 4})
        [0.5, 0.25, 0.0625]
    """
    count = state.get("last_epoch")
    places = sorted({1, count // 2, count}) if isinstance(count, int) else []
    own = [float(function(place)) for function in getattr(scheduler, "lr_lambdas", ()) for place in places]
    inner = getattr(scheduler, "_schedulers", ())
    states = state.get("_schedulers", ())
    return own + [value for one, its in zip(inner, states, strict=False) for value in factors(one, its)]


def options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a parameter group, as plain data.

    Example:
        >>> options({"params": [torch.zeros(1)], "lr": 0.1, "betas": (0.9, 0.99)})
        {'lr': 0.1, 'betas': [0.9, 0.99]}
    """
    return plain({key: value for key, value in group.items() if key not in ("params", "param_names")})


def plain(value: Any) -> Any:
    """Numbers, texts, tensors, and lists and mappings of them; what is neither is left out of its mapping.

    Example:
        >>> plain({"lr": (0.1, 1), "function": print, "milestones": {30: 1}})
        {'lr': [0.1, 1], 'milestones': {30: 1}}
    """
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if isinstance(key, (str, int)) and is_data(item)}
        return {key: plain(item) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def is_data(value: Any) -> bool:
    """Whether a value can be told in a checkpoint that loads without running code."""
    if isinstance(value, (list, tuple)):
        return all(is_data(item) for item in value)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, (Mapping, Tensor))


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal, bit by bit; NaN equals itself.

    Example:
        >>> same([0.1, float("nan")], [0.1, float("nan")]), same({"lr": torch.ones(1)}, {"lr": torch.zeros(1)})
        (True, False)
    """
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with the old and the new one; None where a side lacks the key.

    Example:
        >>> changed({"lr": 0.1, "momentum": 0.9}, {"lr": 0.5, "momentum": 0.9})
        {'lr': (0.1, 0.5)}
    """
    keys: Iterable[str] = dict.fromkeys([*old, *new])
    return {
        key: (old.get(key), new.get(key))
        for key in keys
        if (key in old) != (key in new) or not same(old.get(key), new.get(key))
    }


def class_path(thing: Any) -> str:
    """Module and name of the class of an object."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _place(things: list[Any], one: Any) -> int:
    return next((place for place, thing in enumerate(things) if thing is one), 0)
