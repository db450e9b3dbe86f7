"""How many tokens a network can tell the places of."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import nn

from lit_ft.core.errors import ConfigError


def positions(network: nn.Module) -> int | None:
    """Most tokens of a text that a network of ``transformers`` was made for; None where nothing limits them.

    Learned positions end there; rotary ones go on, but beyond them a network was never trained.

    Args:
        network: With or without an adapter; tokens that an adapter puts in front take places too.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 32}
        >>> positions(causal_lm(Network(config=config)))
        32
    """
    config = getattr(network, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    scaled = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if isinstance(scaled, dict) and isinstance(scaled.get("factor"), (int, float)):
        most = max(most, int(scaled["factor"] * scaled.get("original_max_position_embeddings", most)))
    for name, table in network.named_modules():
        # RoBERTa counts from behind its padding token
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding) and table.padding_idx is not None:
            most = min(most, table.num_embeddings - table.padding_idx - 1)
    adapters: Any = getattr(network, "peft_config", None) or {}
    if isinstance(adapters, dict):
        most -= max((getattr(one, "num_virtual_tokens", None) or 0 for one in adapters.values()), default=0)
    return most


def check_positions(argument: str, tokens: int, network: nn.Module | None) -> None:
    """Refuse texts of more tokens than a network has positions.

    Args:
        argument: What was given, for the error.
        tokens: Tokens of the longest text.
        network: None is not known yet.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 32}
        >>> check_positions("max_length", 64, causal_lm(Network(config=config)))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: max_length: given 64; allowed: 32 tokens or less, ...
    """
    most = None if network is None else positions(network)
    if most is not None and tokens > most:
        raise ConfigError(argument, tokens, f"{most} tokens or less, the positions of {type(network).__name__}")


def longest_texts(data: Any) -> dict[str, int]:
    """The most tokens of a text that data modules give, by the argument that allows as many.

    That is a ``max_length`` that somebody chose; one that nobody did is no more than a limit, and the longest text of
    the rows is what counts.

    Args:
        data: A data module with a ``max_length`` and, from ``setup`` on, a ``longest_text``; or with ``sources`` that
            are such modules.

    Example:
        >>> from lit_ft.data import LabelledText
        >>> longest_texts(LabelledText("texts.csv", max_length=64)), longest_texts(LabelledText("texts.csv"))
        ({'data.max_length': 64}, {'data.max_length': 0})
    """
    sources = getattr(data, "sources", None)
    parts = sources.items() if isinstance(sources, dict) and sources else [("", data)]
    found = {}
    for name, part in parts:
        chosen = part.max_length if _was_chosen(part) and part.max_length != "auto" else 0
        place = f"data.sources.{name}.max_length" if name else "data.max_length"
        found[place] = max(chosen, getattr(part, "longest_text", 0))
    return found


def _was_chosen(data: Any) -> bool:
    """Whether a data module has another ``max_length`` than its class gives by default."""
    kinds: tuple[Any, ...] = type(data).__mro__ if hasattr(data, "max_length") else ()
    for kind in kinds:
        arguments = signature(kind.__init__).parameters
        if "max_length" in arguments:
            return data.max_length != arguments["max_length"].default
        if all(one.kind is not one.VAR_KEYWORD for one in arguments.values()):
            return False  # it is no argument
    return False
