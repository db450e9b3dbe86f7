"""The base of an exported adapter: named where others find it, else saved beside the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from lit_ft.core.adapters import adapted
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.models.adapter import changed_base
from lit_ft.sources.assets import PREFIX

FOLDER = "base"


def name_base(network: nn.Module, spec: Network | None, written: Path, final: Path) -> None:
    """Name the base in the ``adapter_config.json`` of an exported adapter; without an adapter nothing happens.

    A base from a folder or the hub is named as such. Any other one (random weights of a ``config``, an expanded file of
    the cache, one that the start of the adapter changed, one with a head, whose size and names stand in its own
    configuration alone) is written into the folder ``base`` of the export; the adapter is removed from ``network`` for
    that.

    Args:
        network: The network that was exported.
        spec: Its description.
        written: The folder that the adapter was written into.
        final: Where that folder will be.
    """
    models = adapted(network)
    file = written / "adapter_config.json"
    if not models or not file.exists():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    _, model = models[0]
    place = _findable(spec) if not (changed_base(network) or _has_classes(model)) else None
    if place is None:
        place = str((final / FOLDER).resolve())
        # the base is saved as it is: nothing is to be computed from it, or laid out, a second time
        settings |= {key: True for key in ("init_lora_weights",) if changed_base(network) and key in settings}
        again = bool(settings.get("layer_replication"))
        settings |= {key: None for key in ("layer_replication",) if key in settings}
        _save(_without_adapter(model), written / FOLDER, shared=again)
    settings["base_model_name_or_path"] = place
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merged(network: Any, argument: str = "--merge") -> Any:
    """A network whose adapter is part of its weights, added in float32; a network without one is refused.

    Args:
        network: Changed by this.
        argument: What asked for it, for errors.

    Raises:
        ConfigError: There is no adapter, or one that is no change of weights.

    Example:
        >>> merged(nn.Linear(1, 1))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --merge: given 'Linear without an adapter'; allowed: a run with an adapter; ...
    """
    models = adapted(network)
    if not models:
        given = f"{type(network).__name__} without an adapter"
        raise ConfigError(argument, given, "a run with an adapter; this network is dense as it is")
    for path, model in models:
        kind = type(model.active_peft_config).__name__
        if model.active_peft_config.is_prompt_learning:
            raise ConfigError(argument, kind, "an adapter that changes weights: learned prompts are none")
        try:
            model.float()
            dense = model.merge_and_unload(safe_merge=True)
        except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
            raise ConfigError(argument, kind, f"an adapter that can be merged: {error}") from error
        if model is network:
            return dense
        network.set_submodule(path, dense)
    return network


def _findable(spec: Network | None) -> str | None:
    """The absolute folder or the hub id of a base that ``from_pretrained`` gives as it was."""
    if spec is None or spec.path is None or spec.attention_bias or spec.path.startswith(PREFIX):
        return None
    folder = Path(spec.path).expanduser()
    if folder.suffix == ".gguf":
        return None
    return str(folder.resolve()) if folder.exists() else spec.path


def _has_classes(model: Any) -> bool:
    return "Classification" in type(model.get_base_model()).__name__


def _without_adapter(model: Any) -> nn.Module:
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    for path, part in list(base.named_modules()):
        if isinstance(part, ModulesToSaveWrapper):  # trained beside the adapter; PEFT unwraps only what has a weight
            base.set_submodule(path, part.modules_to_save[part.active_adapters[0]])
    if model.active_peft_config.is_prompt_learning:
        return base
    if hasattr(type(model.base_model), "unload"):
        return model.base_model.unload()
    model.base_model.disable_adapter_layers()  # puts the layers of the base back
    return model.get_base_model()


def _save(base: Any, folder: Path, shared: bool) -> None:
    if hasattr(base, "save_pretrained"):
        state = {name: tensor.clone() for name, tensor in base.state_dict().items()} if shared else None
        base.save_pretrained(folder, state_dict=state)
        return
    from safetensors.torch import save_model

    folder.mkdir()
    save_model(base, str(folder / "model.safetensors"))
