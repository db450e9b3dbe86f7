"""Sentence embeddings: an encoder with pooling, as described in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_ft.core.adapters import has_prompt
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.models.build import bare_encoder
from lit_ft.models.source import locate
from lit_ft.tokens.pooling import check_pooling, pool


class SentenceEncoder(nn.Module):
    """One vector per text: hidden states of an encoder, pooled over the tokens that are not padding.

    Args:
        encoder: A network that returns ``last_hidden_state`` of shape (texts, tokens, width).
        pooling: ``mean``, ``cls`` (first token), ``last`` (last token that is not padding) or ``max``.
        normalize: Scale each vector to length 1.

    See also: :func:`sentence_encoder`, which reads a folder.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "vocab_size": 10}
        >>> encoder = SentenceEncoder(bare_encoder(Network(config=config)))
        >>> vectors = encoder(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
        >>> vectors.shape, torch.allclose(vectors.norm(dim=-1), torch.ones(2))
        (torch.Size([2, 8]), True)
    """

    def __init__(self, encoder: nn.Module, pooling: str = "mean", normalize: bool = True) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.pooling, self.normalize = check_pooling(pooling), normalize

    @property
    def config(self) -> Any:
        """The configuration of the encoder."""
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Vectors of shape (texts, width)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        vectors = pool(hidden, attention_mask, self.pooling)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a sentence-transformers folder (without the tokenizer, which saves itself)."""
        place = Path(folder)
        self.encoder.save_pretrained(place)
        parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
        parts += [("2_Normalize", "Normalize")] if self.normalize else []
        names = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken", "max": "max_tokens"}
        settings = {f"pooling_mode_{name}": pooling == self.pooling for pooling, name in names.items()}
        modules = []
        for number, (path, kind) in enumerate(parts):
            (place / path).mkdir(exist_ok=True)
            kind = f"sentence_transformers.models.{kind}"
            modules.append({"idx": number, "name": str(number), "path": path, "type": kind})
        pooling_file = place / "1_Pooling" / "config.json"
        pooling_file.write_text(json.dumps({"word_embedding_dimension": self.config.hidden_size, **settings}, indent=2))
        (place / "modules.json").write_text(json.dumps(modules, indent=2))


def sentence_encoder(spec: Network, pooling: str | None = None, normalize: bool | None = None) -> SentenceEncoder:
    """A sentence encoder from a sentence-transformers folder, or any encoder.

    Args:
        spec: The description of the encoder.
        pooling: None takes that of the folder (``1_Pooling/config.json``), else ``mean``.
        normalize: None takes that of the folder (a ``Normalize`` module), else True.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "vocab_size": 10}
        >>> encoder = sentence_encoder(Network(config=config), pooling="cls")
        >>> encoder.pooling, encoder.normalize
        ('cls', True)
    """
    place = Path(locate(spec.path)) if spec.path is not None else Path("-")
    encoder = bare_encoder(spec)
    if has_prompt(encoder):
        raise ConfigError(
            "network.peft", "prompt learning", "an adapter inside the network: its tokens would be pooled"
        )
    return SentenceEncoder(
        encoder,
        pooling if pooling is not None else _pooling_of(place),
        normalize if normalize is not None else _normalizes(place),
    )


def _modules_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "modules.json"
    modules = json.loads(file.read_text()) if file.exists() else []
    for module in modules:
        if module["type"].rpartition(".")[2] not in ("Transformer", "Pooling", "Normalize"):
            allowed = "a folder of Transformer, Pooling and Normalize alone: without other modules its vectors differ"
            raise ConfigError("network.path", module["type"], allowed)
    return modules


def _pooling_of(folder: Path) -> str:
    names = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last",
             "max": "max", "max_tokens": "max"}  # fmt: skip
    flag = "pooling_mode_"
    for module in _modules_of(folder):
        if module["type"].endswith("Pooling"):
            settings = json.loads((folder / module["path"] / "config.json").read_text())
            # sentence-transformers wrote a flag for each pooling before version 6
            flags = [
                key.removeprefix(flag) for key, value in settings.items() if key.startswith(flag) and value is True
            ]
            on = settings.get("pooling_mode", flags)
            on = [on] if isinstance(on, str) else on
            if len(on) != 1 or on[0] not in names:
                raise ConfigError("pooling", on, f"a folder with one of {', '.join(names)}")
            return names[on[0]]
    return "mean"


def _normalizes(folder: Path) -> bool:
    modules = _modules_of(folder)
    return not modules or any(module["type"].endswith("Normalize") for module in modules)
