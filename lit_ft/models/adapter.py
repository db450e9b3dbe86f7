"""Adapters of PEFT, given in the description of a network and checked when the network is built."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.adapters import MATCHES
from lit_ft.core.errors import ConfigError
from lit_ft.core.frozen_base import is_changed, mark_built
from lit_ft.core.network import Network
from lit_ft.models.adapter_config import adapter_config
from lit_ft.models.adapter_names import laid_on, matches
from lit_ft.models.source import is_adapter


def with_adapter(network: nn.Module, spec: Network, task: str | None = None, absent: Iterable[str] = ()) -> nn.Module:
    """The network with the adapter that ``spec.peft`` describes and a frozen base; unchanged without ``spec.peft``.

    Parts without weights of their own (a new head) are trained whole beside the adapter, and saved with it.

    Args:
        network: The base.
        spec: ``peft`` is ``{class_path: peft.LoraConfig, init_args: {...}}``; ``peft.`` may be left out.
        task: PEFT's task type, if ``spec.peft`` has none; it keeps new classification heads trainable.
        absent: Parameters of the base that start at random.

    Example:
        >>> peft = {"class_path": "LoraConfig", "init_args": {"r": 2, "target_modules": ["0"]}}
        >>> network = with_adapter(nn.Sequential(nn.Linear(4, 3)), Network(path="base", peft=peft))
        >>> [tuple(p.shape) for p in network.parameters() if p.requires_grad]
        [(2, 4), (3, 2)]
    """
    absent = [name for name in absent if name in dict(network.named_parameters())]
    base = dict(network.named_parameters())
    for name in absent:
        mark_built(base[name])
    if spec.path is not None and is_adapter(Path(spec.path).expanduser()):
        return _exported(network, spec)
    if spec.peft is None:
        return network
    import peft

    config = adapter_config(spec.peft, task)
    found = matches(network, config)
    if hasattr(config, "modules_to_save"):
        new = _unfilled_modules(network, absent)
        if new:
            known = list(config.modules_to_save or ())
            config.modules_to_save = known + [name for name in new if not any(name.endswith(one) for one in known)]
    before = {id(parameter): _sum(parameter) for parameter in base.values()}
    try:
        adapted: Any = peft.get_peft_model(network, config)
    except Exception as error:  # whatever PEFT raises on the way, it says what does not fit
        text = " ".join(f"{type(error).__name__}: {error}".split())
        allowed = f"an adapter that fits {type(network).__name__}; PEFT says {text}"
        raise ConfigError("network.peft", spec.peft, allowed) from error
    for parameter in adapted.parameters():
        of_base = id(parameter) in before
        if not of_base or not torch.equal(before[id(parameter)], _sum(parameter)):
            mark_built(parameter, of_base)
    _refuse_unfilled(adapted, {id(base[name]): name for name in absent})
    if getattr(adapted.base_model, "targeted_module_names", None):
        given = (spec.peft.get("init_args") or {}).get("target_modules") or config.target_modules
        found["target_modules"] = laid_on(adapted, config, given)
    setattr(adapted, MATCHES, found)
    return adapted


def _exported(network: nn.Module, spec: Network) -> nn.Module:
    """The network with the adapter of a folder, which is trained further."""
    import peft

    assert spec.path is not None
    if spec.peft is not None:
        raise ConfigError("network.peft", spec.peft, f"null: {spec.path} is an adapter already; it is trained further")
    folder = Path(spec.path).expanduser()
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.modules_to_save = None  # PEFT has names there that fit some networks, and none that has to
    found = matches(network, config)
    try:
        inside = not config.is_prompt_learning
        adapted: Any = peft.PeftModel.from_pretrained(network, str(folder), is_trainable=inside)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        allowed = f"an adapter that fits {type(network).__name__}; PEFT says {text}"
        raise ConfigError("network.path", spec.path, allowed) from error
    for name, parameter in adapted.named_parameters() if not inside else ():  # PEFT loads prompts frozen alone
        parameter.requires_grad_(name.startswith("prompt_encoder.") or ".modules_to_save." in name)
    setattr(adapted, MATCHES, found)
    return adapted


def changed_base(network: nn.Module) -> list[str]:
    """The weights of the base for which its path has other values: PiSSA's residual, those of a warm start."""
    return [name for name, tensor in [*network.named_parameters(), *network.named_buffers()] if is_changed(tensor)]


def _sum(parameter: Tensor) -> Tensor:
    """A sum over the bits, by which a changed weight is found in one pass."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    return parameter.detach().contiguous().view(whole).sum()


def _unfilled_modules(network: nn.Module, absent: Iterable[str]) -> list[str]:
    """The outermost modules of which every parameter is absent."""
    gone, found = set(absent), []  # type: set[str], list[str]
    if not gone:
        return found
    for path, module in network.named_modules(remove_duplicate=False):
        if not path or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        inside = [f"{path}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)]
        if inside and gone.issuperset(inside) and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


def _refuse_unfilled(network: nn.Module, absent: dict[int, str]) -> None:
    """Refuse weights that stay random, frozen and outside of what the adapter saves."""
    for name, parameter in network.named_parameters():
        if id(parameter) in absent and not parameter.requires_grad and ".original_module." not in name:
            allowed = (
                "a base that has weights for it, or an adapter with modules_to_save that take it in: it is random, and"
                " would be neither trained nor saved"
            )
            raise ConfigError("network.peft", f"{type(network).__name__} beside {absent[id(parameter)]}", allowed)
