"""What a network says of its adapters: their settings, their layers, and what of the base they leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lit_ft.core.errors import ConfigError

MATCHES = "adapter_matches"  # an attribute of a model of PEFT that lit_ft.models built

# settings that change no output of trained weights, or that stand in the names of the tensors
_ELSEWHERE = {
    "inference_mode", "base_model_name_or_path", "revision", "peft_version", "auto_mapping", "task_type",
    "runtime_config", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip


def adapted(network: nn.Module) -> list[tuple[str, Any]]:
    """The parts of a network that are models of PEFT, with their paths; the network itself has an empty one.

    Example:
        >>> adapted(nn.Linear(1, 1))
        []
    """
    found: list[tuple[str, Any]] = []
    for path, module in network.named_modules():
        inside = any(not outer or path.startswith(f"{outer}.") for outer, _ in found)
        if not inside and hasattr(type(module), "disable_adapter") and hasattr(module, "peft_config"):
            found.append((path, module))
    return found


def has_prompt(network: nn.Module) -> bool:
    """Whether an adapter puts tokens of its own in front of the batch."""
    return any(config.is_prompt_learning for _, model in adapted(network) for config in model.peft_config.values())


def adapter_matches(network: nn.Module) -> dict[str, dict[str, int]]:
    """How many parts of the network each name in the settings of its adapter meant when it was built.

    Example:
        >>> adapter_matches(nn.Linear(1, 1))
        {}
    """
    return {key: names for _, model in adapted(network) for key, names in getattr(model, MATCHES, {}).items()}


def adapter_settings(network: nn.Module) -> dict[str, dict[str, Any]]:
    """The settings of each adapter that stand in no tensor, and the layers that it is laid on, as plain data.

    Example:
        >>> adapter_settings(nn.Linear(1, 1))
        {}
    """
    found = {}
    for path, model in adapted(network):
        for name, config in model.peft_config.items():
            settings = {f.name: _plain(getattr(config, f.name)) for f in fields(config) if _shapes_outputs(f.name)}
            layers = sorted(getattr(model.base_model, "targeted_module_names", []))
            found[f"{path}.{name}".lstrip(".")] = {**settings, "layers": layers}
    return found


def refuse_other_adapter(network: nn.Module, saved: Mapping[str, Mapping[str, Any]], whole: bool = True) -> None:
    """Refuse weights of an adapter with settings other than those of the network's own.

    Args:
        network: The network that takes the weights.
        saved: What :func:`adapter_settings` said of the network that they come from.
        whole: Whether the adapter must be on the same layers; else it may be on further ones.

    Raises:
        ConfigError: A setting differs; it is named.
    """
    own = adapter_settings(network)
    configs = {f"{path}.{name}".lstrip("."): c for path, m in adapted(network) for name, c in m.peft_config.items()}
    for place, settings in saved.items():
        kind = settings["peft_type"]
        if place not in own or own[place]["peft_type"] != kind:
            given = own[place]["peft_type"] if place in own else None
            raise ConfigError("network.peft", given, f"the adapter that the checkpoint was trained with, {kind}")
        mine, defaults = own[place], _defaults(configs[place])
        for key in [*settings, *(key for key in mine if key not in settings)]:
            then: Any = settings.get(key, defaults.get(key))
            now: Any = mine.get(key, defaults.get(key))
            if key == "layers":
                _refuse_other_layers(set(now), set(then), whole)
            elif now != then:
                allowed = f"{then!r}, as in the checkpoint: it stands in no weight"
                raise ConfigError(f"network.peft.init_args.{key}", now, allowed)


def _refuse_other_layers(own: set[str], saved: set[str], whole: bool) -> None:
    absent, new = sorted(saved - own), sorted(own - saved) if whole else []
    if absent or new:
        what = f"one on {absent[0]} too" if absent else f"one without {new[0]}"
        allowed = f"{what}, as in the checkpoint ({len(saved)} layers; here {len(own)})"
        raise ConfigError("network.peft.init_args.target_modules", "an adapter on other layers", allowed)


def fixed_norms(network: nn.Module) -> list[nn.Module]:
    """The norms of a frozen base that keep running statistics: these are part of the base, and stay as they are.

    Example:
        >>> fixed_norms(nn.BatchNorm1d(2))  # no adapter, so nothing is frozen
        []
    """
    found: list[nn.Module] = []
    for _, model in adapted(network):
        own = ("modules_to_save.", getattr(model.base_model, "prefix", "") or "modules_to_save.")
        for path, module in model.named_modules():
            if isinstance(module, _NormBase) and module.track_running_stats and not any(part in path for part in own):
                found.append(module)
    return found


@contextmanager
def perturbed(network: nn.Module, size: float = 0.1) -> Iterator[None]:
    """Random numbers added to every trainable weight of an adapter: what it does once it is trained; then undone.

    An adapter that has not learned yet changes nothing, and hides what it will do. Nothing is added below single
    precision: there, rounding grows in a perturbed network to what a leak would be.

    Args:
        network: With or without adapters; what is outside of them stays.
        size: Standard deviation.
    """
    first = next(network.parameters())
    exact = first.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(first.device.type)
    models = adapted(network) if exact else []
    moved = {id(p): p for _, model in models for p in model.parameters() if p.requires_grad}
    before = {key: parameter.detach().clone() for key, parameter in moved.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in moved.values():
                noise = size * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.device, parameter.dtype))
        yield
    finally:
        with torch.no_grad():
            for key, parameter in moved.items():
                parameter.copy_(before[key])


def begun(network: nn.Module) -> list[nn.Parameter]:
    """Prepare a network with an adapter that was just built for training.

    Norms of the frozen base keep their running statistics, and a warning is given where the adapter has a type in which
    small steps are lost.

    Returns:
        Trainable weights that decay would pull away from the base: all of one dimension, further scales, which begin at
        a constant other than 0, and the magnitudes of DoRA, which begin at those of the base.

    Example:
        >>> begun(nn.Linear(1, 1))  # no adapter
        []
    """
    for norm in fixed_norms(network):
        norm.eval()
    own = [(name, p) for _, model in adapted(network) for name, p in model.named_parameters() if p.requires_grad]
    coarse = {str(p.dtype).removeprefix("torch.") for _, p in own if p.dtype in (torch.bfloat16, torch.float16)}
    if coarse:
        rank_zero_warn(
            f"the adapter is trained in {min(coarse)}, in which small steps are lost in rounding; with"
            " trainer.precision bf16-mixed and network.dtype float32 it is in float32"
        )
    return [
        parameter for name, parameter in own
        if "modules_to_save" not in name
        and (parameter.ndim < 2 or "magnitude_vector" in name or _is_constant(parameter))
    ]  # fmt: skip


def refuse_untrained(network: nn.Module) -> None:
    """After a backward pass: refuse an adapter of which one kind of weights got no gradient at all.

    It acts outside of what the method runs, such as a prompt in front of a network that is run without it.
    """
    reached: dict[str, bool] = {}
    for _, model in adapted(network):
        prefix = getattr(model.base_model, "prefix", None) or "prompt_encoder"
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                kind = name[name.index(prefix) :] if prefix in name else name
                reached[kind] = reached.get(kind, False) or parameter.grad is not None
    untrained = [kind for kind, found in reached.items() if not found]
    if untrained:
        shown = ", ".join(untrained[:3]) + (" ..." if len(untrained) > 3 else "")
        raise ConfigError(
            "network.peft", shown, "weights that get a gradient: this method runs the network without these"
        )


def _is_constant(parameter: nn.Parameter) -> bool:
    if parameter.numel() < 2 or parameter.is_meta:
        return False
    first = parameter.detach().flatten()[0]
    return bool(first != 0) and bool((parameter.detach() == first).all())


def _shapes_outputs(key: str) -> bool:
    return key not in _ELSEWHERE and "dropout" not in key and "init" not in key


def _defaults(config: Any) -> dict[str, Any]:
    found = {}
    for field in fields(config):
        if field.default is not MISSING:
            found[field.name] = _plain(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = _plain(field.default_factory())
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
