"""Networks and tokenizers of ``transformers`` from a light description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.network import Network
from lit_ft.models import attention
from lit_ft.models.adapter import with_adapter
from lit_ft.models.attention_bias import add_attention_bias
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.models.source import base_of, explained, is_adapter, locate

COUNT = re.compile(r"^(num|n)_|(^|_)(size|layers|heads|dim)$")
"""Keys of a configuration that count something."""


def tokenizer(spec: Network) -> Any:
    """The tokenizer of a network; needs no weights.

    With ``config``, its key ``tokenizer`` names a folder, a hub id, ``packaged:NAME``, or ``bytes``: one token a byte.
    A missing padding token is replaced by the end-of-text token.

    Example:
        >>> words = tokenizer(Network(config={"model_type": "gpt2", "tokenizer": "bytes"}))
        >>> words.decode(words("any text")["input_ids"])
        'any text'
    """
    from transformers import AutoTokenizer

    source = spec.path
    if spec.config is not None:
        source = spec.config.get("tokenizer")
        if source is None:
            raise ConfigError("network.config", spec.config, "a key `tokenizer`: a folder, packaged:NAME, or bytes")
        if source == "bytes":
            return byte_tokenizer()
    place = locate(str(source))
    with explained(spec, place, "tokenizer"), quiet():
        found = AutoTokenizer.from_pretrained(place, trust_remote_code=spec.trust_remote_code)
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def sequence_classifier(spec: Network, num_labels: int) -> nn.Module:
    """A network with a classification head over a whole text; the head is random unless ``path`` has one of that size.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 2, "tokenizer": "bytes"}
        >>> network = sequence_classifier(Network(config=config), num_labels=3)
        >>> network(torch.tensor([[8, 9]])).logits.shape  # texts, classes
        torch.Size([1, 3])
    """
    from transformers import AutoModelForSequenceClassification as Auto

    network, absent = _network(spec, Auto, new=("classifier", "score", "pooler", "head"), num_labels=num_labels)
    if network.config.get_text_config().pad_token_id is None:
        network.config.get_text_config().pad_token_id = tokenizer(
            spec
        ).pad_token_id  # decoders find the last token by it
    return _finished(network, spec, "SEQ_CLS", absent)


def causal_lm(spec: Network) -> nn.Module:
    """A causal language model.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 2, "tokenizer": "bytes"}
        >>> causal_lm(Network(config=config))(torch.tensor([[7, 8, 9]])).logits.shape  # rows, tokens, vocabulary
        torch.Size([1, 3, 263])
    """
    from transformers import AutoModelForCausalLM as Auto

    network, absent = _network(spec, Auto)
    return _finished(network, spec, "CAUSAL_LM", absent)


def masked_lm(spec: Network) -> nn.Module:
    """A masked language model; warns if ``path`` has no head for it.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "vocab_size": 10}
        >>> masked_lm(Network(config=config))(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 10])
    """
    from transformers import AutoModelForMaskedLM as Auto

    network, absent = _network(spec, Auto)
    return _finished(network, spec, None, absent)


def bare_encoder(spec: Network) -> nn.Module:
    """A network without a head, which returns hidden states.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "vocab_size": 10}
        >>> bare_encoder(Network(config=config))(torch.tensor([[1, 2, 3]])).last_hidden_state.shape
        torch.Size([1, 3, 8])
    """
    from transformers import AutoModel as Auto

    network, absent = _network(spec, Auto, new=("pooler",))
    if spec.peft is not None and absent and all(name.startswith("pooler.") for name in absent):
        network.pooler, absent = None, []  # no hidden state needs it, and beside an adapter it would be trained in vain
    return _finished(network, spec, "FEATURE_EXTRACTION", absent)


def pretrained_image_classifier(spec: Network, num_labels: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """An image classifier of ``transformers``; with ``config``, sizes default to those of the images.

    See also: :func:`~lit_ft.models.image_classifier`, which knows the small networks too.
    """
    from transformers import AutoModelForImageClassification as Auto

    defaults = {"num_channels": image_shape[0], "image_size": image_shape[-1]}
    network, absent = _network(spec, Auto, new=("classifier",), defaults=defaults, num_labels=num_labels)
    if spec.path is None:  # all of it is random; the head is that of these classes
        body = f"{network.base_model_prefix}."
        absent = [name for name, _ in network.named_parameters() if not name.startswith(body)]
    return _finished(network, spec, None, absent)


def _network(
    spec: Network, auto: Any, new: tuple[str, ...] = (), defaults: dict[str, Any] | None = None, **head: Any
) -> tuple[Any, list[str]]:
    """Weights from a path, or random ones from a config, and the parameters that the path did not fill.

    ``new`` are the parts that may start at random.
    """
    from transformers import AutoConfig

    attention.take_over()
    dtype = spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    settings: dict[str, Any] = {"dtype": dtype, "trust_remote_code": spec.trust_remote_code}
    if spec.attention is not None:
        settings["attn_implementation"] = spec.attention
    if spec.path is None:
        config = _config(spec, defaults or {}, head)
        settings["dtype"] = torch.float32 if dtype == "auto" else dtype
        with _attention_error(spec), _config_error(spec):
            return auto.from_config(config, **settings), []
    place = locate(spec.path)
    place = base_of(place) if is_adapter(place) else place
    with explained(spec, place, "network"), _attention_error(spec), quiet():
        config = AutoConfig.from_pretrained(place, trust_remote_code=spec.trust_remote_code, **head)
        network, info = auto.from_pretrained(
            place, config=config, output_loading_info=True, ignore_mismatched_sizes=bool(head), **settings
        )
    absent = sorted(info["missing_keys"]) + sorted(str(m[0]) for m in info.get("mismatched_keys", ()))
    surprising = [name for name in absent if not any(part in name.split(".") for part in new)]
    if surprising:
        shown = ", ".join(surprising[:4]) + (" ..." if len(surprising) > 4 else "")
        rank_zero_warn(f"{spec.path} has no weights for {len(surprising)} tensors, which start at random: {shown}")
    return network, absent


def _config(spec: Network, defaults: dict[str, Any], head: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    given = dict(spec.config or {})
    model_type, has_tokenizer = given.pop("model_type", None), given.pop("tokenizer", None) is not None
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        close = nearest(str(model_type), list(CONFIG_MAPPING.keys()))
        raise ConfigError("network.config.model_type", model_type, f"a model type of transformers{close}")
    known = AutoConfig.for_model(model_type).to_dict()
    for key in given:
        if key not in known and key not in head:
            raise ConfigError(f"network.config.{key}", given[key], f"a key of {model_type}{nearest(key, known)}")
        if COUNT.search(key) and isinstance(given[key], int) and given[key] < 0:
            raise ConfigError(f"network.config.{key}", given[key], "0 or more")  # -1 layers would be none, unsaid
    settings = {key: value for key, value in defaults.items() if key in known} | given | head
    if has_tokenizer and "vocab_size" in known:
        words = tokenizer(spec)
        settings.setdefault("vocab_size", len(words))
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            settings.setdefault(name, getattr(words, name))
    with _config_error(spec):
        config = AutoConfig.for_model(model_type, **settings)
    _refuse_heads(config, given)
    return config


def _refuse_heads(config: Any, given: dict[str, Any]) -> None:
    """Heads that do not divide the width would leave a part of it out, unsaid, where their size is not given."""
    width, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1 or not width % heads:
        return
    sizes = {getattr(config, name, None) for name in ("head_dim", "d_kv", "kv_channels")} - {None, width // heads}
    if not sizes and "head_dim" not in given:
        names = getattr(config, "attribute_map", {})
        name, of = (names.get(one, one) for one in ("num_attention_heads", "hidden_size"))
        raise ConfigError(f"network.config.{name}", heads, f"a divisor of {of}, which is {width}")


@contextmanager
def _config_error(spec: Network) -> Iterator[None]:
    """Turn what a network of ``transformers`` says of sizes that make no network into one line."""
    try:
        yield
    except (ConfigError, ImportError):
        raise
    except Exception as error:  # whatever comes out of sizes that do not go together
        if spec.attention is not None and spec.attention in str(error):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError("network.config", spec.config, f"what makes a network; transformers says {text}") from error


def _finished(network: Any, spec: Network, task: str | None, absent: list[str]) -> nn.Module:
    if spec.attention_bias:
        add_attention_bias(network)
    if spec.gradient_checkpointing:
        if not getattr(network, "supports_gradient_checkpointing", False):
            raise ConfigError(
                "network.gradient_checkpointing", True, f"false: {type(network).__name__} does not offer it"
            )
        # the name changed within transformers 5
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    # from_pretrained leaves the network in eval mode, and Lightning keeps the mode it finds: no dropout in training
    return with_adapter(network, spec, task, absent).train()


@contextmanager
def _attention_error(spec: Network) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError) as error:
        if spec.attention is not None and spec.attention in str(error):
            raise ConfigError("network.attention", spec.attention, f"eager, sdpa, ...: {error}") from error
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loading report of transformers: a new head is expected here, and a warning names anything else."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
