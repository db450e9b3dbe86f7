"""Adapters of PEFT, given in the description of a network and checked when the network is built."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.network import Network


def with_adapter(network: nn.Module, spec: Network, task: str | None = None) -> nn.Module:
    """The network with the adapter that ``spec.peft`` describes and a frozen base; unchanged without ``spec.peft``.

    Args:
        network: The base.
        spec: ``peft`` is ``{class_path: peft.LoraConfig, init_args: {...}}``; ``peft.`` may be left out.
        task: PEFT's task type, if ``spec.peft`` has none; it keeps new classification heads trainable.

    Example:
        >>> peft = {"class_path": "LoraConfig", "init_args": {"r": 2, "target_modules": ["0"]}}
        >>> network = with_adapter(nn.Sequential(nn.Linear(4, 3)), Network(path="base", peft=peft))
        >>> [tuple(p.shape) for p in network.parameters() if p.requires_grad]
        [(2, 4), (3, 2)]
    """
    if spec.peft is None:
        return network
    import peft

    kind = _config_class(spec.peft.get("class_path"))
    arguments = dict(spec.peft.get("init_args") or {})
    if task is not None and issubclass(kind, peft.PeftConfig):
        arguments.setdefault("task_type", task)
    try:
        config = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "network.peft.init_args", spec.peft.get("init_args"), f"what {kind.__name__} takes: {error}"
        ) from error
    try:
        return peft.get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(
            "network.peft", spec.peft, f"an adapter that fits {type(network).__name__}: {error}"
        ) from error


def _config_class(path: Any) -> type:
    import peft

    known = [name for name, value in vars(peft).items() if _is_config(value)]
    if not isinstance(path, str):
        raise ConfigError("network.peft.class_path", path, f"the path of a class, such as peft.{known[0]}")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "peft"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("network.peft.class_path", path, f"a PeftConfig{nearest(name, known)}") from error
    if not _is_config(found):
        raise ConfigError("network.peft.class_path", path, f"a PeftConfig{nearest(name, known)}")
    return found


def _is_config(value: object) -> bool:
    import peft

    return isinstance(value, type) and issubclass(value, peft.PeftConfig)
