"""Names in the settings of an adapter: each must mean something in the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from lit_ft.core.errors import ConfigError, nearest

_MODULES = ("target_modules", "exclude_modules", "feedforward_modules")
_ALL = "all-linear"


def matches(network: nn.Module, config: Any) -> dict[str, dict[str, int]]:
    """How many parts of a network each name in the settings of an adapter means.

    Args:
        network: The base, without the adapter.
        config: A configuration of PEFT.

    Returns:
        The numbers by setting and name.

    Raises:
        ConfigError: A name means nothing in this network; the nearest one is named.

    Example:
        >>> from types import SimpleNamespace
        >>> network = nn.ModuleDict({"query": nn.Linear(2, 2), "value": nn.Linear(2, 2)})
        >>> matches(network, SimpleNamespace(target_modules=["query"]))
        {'target_modules': {'query': 1}}
        >>> matches(network, SimpleNamespace(target_modules=["query", "valeu"]))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: network.peft.init_args.target_modules: given 'valeu'; ... 'value'?)
    """
    modules = [name for name, _ in network.named_modules() if name]
    parameters = [name for name, _ in network.named_parameters()]
    found: dict[str, dict[str, int]] = {}

    def count(key: str, names: Iterable[str], means: Callable[[str, str], Any], entries: Iterable[Any]) -> None:
        names = list(names)
        for entry in entries:
            number = sum(bool(means(str(entry), name)) for name in names)
            if number == 0:
                _refuse(key, entry, names, network)
            found.setdefault(key, {})[str(entry)] = number

    for key in _MODULES:
        given = getattr(config, key, None)
        if isinstance(given, str):
            if not (given == _ALL or (key == "target_modules" and type(config).__name__ == "AdaptionPromptConfig")):
                count(key, modules, re.fullmatch, [given])
        elif given:
            count(key, modules, _ends, sorted(given))
    count("modules_to_save", modules, _wraps, getattr(config, "modules_to_save", None) or ())
    count("target_parameters", parameters, _ends, getattr(config, "target_parameters", None) or ())
    targeted = [name for name in modules if _is_targeted(config, name)]
    _count_layers(config, targeted, modules, count)
    for key, value in vars(config).items():
        if key.endswith("_pattern") and isinstance(value, Mapping):
            count(key, targeted, _pattern, value)
    _check_tokens(network, config, modules, count)
    return found


def laid_on(network: nn.Module, config: Any, given: Any) -> dict[str, int]:
    """How many adapters each entry of ``target_modules`` laid; one that laid none is refused.

    Args:
        network: With the adapter.
        config: Its configuration.
        given: ``target_modules`` as written.
    """
    targets = list(getattr(network.base_model, "targeted_module_names", ()))
    if isinstance(given, str):
        return {given: len(targets)}
    found = {}
    for entry in sorted(given):
        found[entry] = sum(_ends(entry, name) for name in targets)
        if found[entry] == 0:
            whole = any(_ends(entry, name) or entry.startswith(name) for name in config.modules_to_save or ())
            reason = "it is trained whole, as modules_to_save or a new head" if whole else "other settings exclude it"
            raise ConfigError("network.peft.init_args.target_modules", entry, f"a list without it: {reason}")
    return found


def _count_layers(config: Any, targeted: list[str], modules: list[str], count: Callable[..., None]) -> None:
    wanted, patterns = getattr(config, "layers_to_transform", None), getattr(config, "layers_pattern", None)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or ())
    count(
        "layers_pattern", modules, lambda pattern, name: re.match(rf"(?:^|.*?\.){pattern}\.\d+(\.|$)", name), patterns
    )
    if wanted is None:
        return
    pattern = rf"(?:^|.*?\.)(?:{'|'.join(patterns)})\.(\d+)\." if patterns else r".*?\.[^.]*\.(\d+)\."
    layers = [found[1] for found in (re.match(pattern, name) for name in targeted) if found]
    for layer in [wanted] if isinstance(wanted, int) else wanted:
        if str(layer) not in layers:
            allowed = (
                f"a layer with such a module, from 0: {', '.join(sorted(set(layers), key=int)) or 'there is none'}"
            )
            raise ConfigError("network.peft.init_args.layers_to_transform", layer, allowed)
    count(
        "layers_to_transform",
        layers,
        lambda layer, name: layer == name,
        [wanted] if isinstance(wanted, int) else wanted,
    )


def _check_tokens(network: nn.Module, config: Any, modules: list[str], count: Callable[..., None]) -> None:
    given = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None)
    if not given:
        return
    key = "token_indices" if hasattr(config, "token_indices") else "trainable_token_indices"
    if isinstance(given, Mapping):
        count(key, modules, _ends, given)
        tokens = [token for some in given.values() for token in some]
    else:
        tokens = list(given)
    embedding = getattr(network, "get_input_embeddings", lambda: None)()
    size = getattr(embedding, "num_embeddings", None)
    for token in tokens:
        if size is not None and not 0 <= token < size:
            raise ConfigError(f"network.peft.init_args.{key}", token, f"a token of the network, from 0 to {size - 1}")


def _is_targeted(config: Any, name: str) -> bool:
    given = getattr(config, "target_modules", None)
    excluded = getattr(config, "exclude_modules", None)
    if given is None or isinstance(given, str):
        inside = given in (None, _ALL) or bool(re.fullmatch(given, name))
    else:
        inside = any(_ends(entry, name) for entry in given)
    if isinstance(excluded, str):
        return inside and not re.fullmatch(excluded, name)
    return inside and not any(_ends(entry, name) for entry in excluded or ())


def _ends(entry: str, name: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _wraps(entry: str, name: str) -> bool:
    return name.endswith(entry)  # as PEFT does, without a dot


def _pattern(entry: str, name: str) -> bool:
    return bool(re.match(rf"(.*\.)?({entry})$", name))


def _refuse(key: str, entry: Any, names: list[str], network: nn.Module) -> None:
    ends = {name.rpartition(".")[2] for name in names} - {str(number) for number in range(len(names))}
    close = nearest(str(entry), sorted(ends)) or nearest(str(entry), names)
    raise ConfigError(f"network.peft.init_args.{key}", entry, f"a name that fits {type(network).__name__}{close}")
