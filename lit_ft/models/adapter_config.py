"""From ``network.peft`` to a configuration of PEFT; what would not do here what it promises is refused by name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeGuard, get_args, get_origin, get_type_hints

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.plain import fits

_ALLOCATES = "its ranks are allocated by a call after each step, which no method makes"
_TASKS = "it needs the number of a task for each row, which no batch has"
_LOSS = "it adds a term to the loss, which no method knows"

# by configuration: why it would train something else than it promises
_REFUSED = {
    "AdaLoraConfig": f"{_ALLOCATES}; it also adds a term to the loss",
    "CPTConfig": "it has a loss and a projection of its own, which no method knows",
    "LilyConfig": "it mixes over the tokens and rows of a batch, so that a token would see later ones and other rows",
    "MultitaskPromptTuningConfig": _TASKS,
    "PolyConfig": _TASKS,
    "ShadowConfig": f"it runs a second network beside the first; {_LOSS}",
    "XLoraConfig": "it mixes adapters that were trained before, outside of the network's own forward pass",
}

# by setting: the values that are refused, and why
_REFUSED_SETTINGS: dict[str, tuple[tuple[Any, ...] | None, str]] = {
    "init_lora_weights": (
        ("eva", "lora_ga", "corda"),
        "it starts from a pass over data, which is not made here; true, gaussian, orthogonal, mica, olora and pissa"
        " start from the weights alone",
    ),
    "use_asa": ((True,), _ALLOCATES),
    "alora_invocation_tokens": (None, "the adapter would be laid on by text, outside of the network's forward pass"),
    "arrow_config": (None, "it routes between adapters that were trained before"),
    "generator_seed": (
        None,
        "the state of its own random numbers would not be in checkpoints; null draws those of the run",
    ),
    "base_model_name_or_path": (None, "network.path names the base"),
    "revision": (None, "network.path names the base"),
    "inference_mode": ((True,), "nothing would be trained"),
    "kasa_config": (None, _LOSS),
    "monteclora_config": (None, _LOSS),
}


def adapter_config(spec: Mapping[str, Any], task: str | None) -> Any:
    """The configuration that ``{class_path: peft.LoraConfig, init_args: {...}}`` describes.

    Args:
        spec: ``peft.`` may be left out of the class.
        task: PEFT's task type, where ``init_args`` has none.

    Example:
        >>> adapter_config({"class_path": "LoraConfig", "init_args": {"r": 2}}, None).r
        2
        >>> adapter_config({"class_path": "LoraConfig", "init_args": {"rnk": 2}}, None)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: network.peft.init_args.rnk: given 2; allowed: a setting of LoraConfig...
    """
    for key in spec:
        if key not in ("class_path", "init_args"):
            close = nearest(str(key), ("class_path", "init_args"))
            raise ConfigError(f"network.peft.{key}", spec[key], f"the keys class_path and init_args{close}")
    kind = _config_class(spec.get("class_path"))
    given = spec.get("init_args")
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError("network.peft.init_args", given, f"a mapping of settings of {kind.__name__}")
    arguments = dict(given or {})
    if kind.__name__ in _REFUSED:
        raise ConfigError("network.peft.class_path", spec["class_path"], f"another adapter: {_REFUSED[kind.__name__]}")
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key, value in arguments.items():
        if key not in known:
            allowed = f"a setting of {kind.__name__}{nearest(str(key), known)}"
            raise ConfigError(f"network.peft.init_args.{key}", value, allowed)
        _check_setting(key, value, hints[key])
    if task is not None and arguments.setdefault("task_type", task) not in (task, None):
        allowed = f"{task}, the task of this network; it may be left out"
        raise ConfigError("network.peft.init_args.task_type", arguments["task_type"], allowed)
    said: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            config = kind(**arguments)
    except (TypeError, ValueError, KeyError, ImportError) as error:
        allowed = f"what {kind.__name__} takes: {_line(error)}"
        raise ConfigError("network.peft.init_args", spec.get("init_args"), allowed) from error
    for warning in said:
        if "ignored" in str(warning.message):
            allowed = f"settings that are all used; PEFT says: {_line(warning.message)}"
            raise ConfigError("network.peft.init_args", spec.get("init_args"), allowed)
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return config


def _check_setting(key: str, value: Any, hint: Any) -> None:
    place = f"network.peft.init_args.{key}"
    values, reason = _REFUSED_SETTINGS.get(key, ((), ""))
    if value in values if values is not None else value is not None:
        raise ConfigError(place, value, f"another value: {reason}")
    words = _words(hint)
    number = isinstance(value, str) and value.removeprefix("pissa_niter_").isdigit()  # pissa_niter_[number of iters]
    if words and isinstance(value, str) and value not in words and not number and not fits(value, hint):
        raise ConfigError(place, value, f"{', '.join(words)}{nearest(value, words)}")


def _words(hint: Any) -> list[str]:
    """The words of a ``Literal`` in an annotation."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for part in get_args(hint) for word in _words(part)]


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _config_class(path: Any) -> type:
    import peft

    known = [name for name, value in vars(peft).items() if _is_config(value)]
    if not isinstance(path, str):
        raise ConfigError("network.peft.class_path", path, f"the path of a class, such as peft.{known[0]}")
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module or "peft"), name, None)  # nothing is imported because data name it
    if not _is_config(found) and module.split(".")[0] not in ("", "peft"):
        allowed = f"a PeftConfig; of a module of yours, which --import {module} (in Python, import) makes known"
        raise ConfigError("network.peft.class_path", path, allowed)
    if not _is_config(found):
        raise ConfigError(
            "network.peft.class_path",
            path,
            f"a PeftConfig{nearest(f'peft.{name}', [f'peft.{each}' for each in known])}",
        )
    return found


def _is_config(value: object) -> TypeGuard[type]:
    import peft

    return isinstance(value, type) and issubclass(value, peft.PeftConfig)
