"""The role of a parameter in a transformer block, and the single matrices of a fused parameter."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROLES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "attention.qkv",
    "feed_forward.in",
    "feed_forward.gate",
    "feed_forward.gate_in",
    "feed_forward.out",
    "norm",
    "embedding",
    "head",
    "other",
)

_FUSED = re.compile(r"(qkv|c_attn|query_key_value|in_proj|wqkv)", re.IGNORECASE)
_ATTENTION = re.compile(r"(attn|attention)", re.IGNORECASE)
_OUT = ("down_proj", "c_proj", "fc2", "lin2", "linear2", "wo", "w2", "dense_4h_to_h", "fc_out", "w_out", "proj_out")
_GATE = ("gate_proj", "w1", "wi_0", "gate")
_SPLIT = {"q": "attention.query", "k": "attention.key", "v": "attention.value"}


@dataclass(frozen=True)
class Part:
    """Slices of a fused parameter that belong to one matrix.

    Args:
        dim: Dimension that is sliced.
        spans: First and one past the last index of each slice.

    Example:
        >>> mask = torch.zeros(3, 2, dtype=torch.bool)
        >>> Part(dim=0, spans=((1, 3),)).mark(mask)
        >>> mask
        tensor([[False, False],
                [ True,  True],
                [ True,  True]])
    """

    dim: int
    spans: tuple[tuple[int, int], ...]

    def mark(self, mask: Tensor) -> None:
        """Set the entries of this part in a boolean mask."""
        for start, stop in self.spans:
            mask.narrow(self.dim, start, stop - start).fill_(True)


def module_role(name: str, module: nn.Module, parameter: nn.Parameter, in_block: bool, before_blocks: bool) -> str:
    """The role of a parameter from the class of its module, the names on its path, and its shape."""
    kind = type(module).__name__.lower()
    *path, leaf = name.rpartition(".")[0].split(".")
    if "norm" in kind or (parameter.ndim < 2 and "norm" in leaf.lower()):
        return "norm"
    if isinstance(module, nn.Embedding) or "embedding" in kind:
        return "embedding"
    if not in_block:
        return "embedding" if before_blocks else "head"
    own = name.rpartition(".")[2]
    path_text = ".".join(path)
    if own.startswith("in_proj") or (_FUSED.search(leaf) and not leaf.startswith("q_")):
        return "attention.qkv"
    if _ATTENTION.search(path_text) or leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
        letter = re.match(r"(to_|w)?(q|k|v)(_?proj|_?lin|_?attn|uery|ey|alue|_.*)?$", leaf.lower())
        return _SPLIT[letter.group(2)] if letter else "attention.output"
    return _feed_forward(leaf, module)


def _feed_forward(leaf: str, module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return "other"
    if "gate_up" in leaf:
        return "feed_forward.gate_in"
    if leaf in _GATE:
        return "feed_forward.gate"
    outputs, inputs = weight.shape
    if _transposed(module):
        outputs, inputs = inputs, outputs
    if leaf in _OUT or inputs > outputs:
        return "feed_forward.out"
    return "feed_forward.in"


def _transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def output_dim(module: nn.Module, parameter: nn.Parameter) -> int:
    """The dimension of a weight (or bias) that indexes the outputs of its module."""
    return 1 if parameter.ndim == 2 and _transposed(module) else 0


def parts_of(role: str, module: nn.Module, parameter: nn.Parameter, network: nn.Module) -> dict[str, Part]:
    """Slices of the single matrices of a fused parameter; empty if it is not fused or its layout is unknown."""
    dim = output_dim(module, parameter)
    size = parameter.shape[dim] if parameter.ndim else 0
    if role == "feed_forward.gate_in":
        half = size // 2
        return {"feed_forward.gate": Part(dim, ((0, half),)), "feed_forward.in": Part(dim, ((half, size),))}
    if role != "attention.qkv":
        return {}
    heads, groups = head_counts(network)
    rows = size // (heads + 2 * groups) if heads and size % (heads + 2 * groups) == 0 else 0
    if _interleaved(network, module):
        if not rows or groups != heads:
            return {}
        return {
            role: Part(dim, tuple(((3 * h + place) * rows, (3 * h + place + 1) * rows) for h in range(heads)))
            for place, role in enumerate(_SPLIT.values())
        }
    if rows and groups != heads:
        edges = (0, heads * rows, (heads + groups) * rows, size)
    elif size % 3 == 0:
        edges = (0, size // 3, 2 * size // 3, size)
    else:
        return {}
    return {role: Part(dim, ((edges[i], edges[i + 1]),)) for i, role in enumerate(_SPLIT.values())}


def head_counts(network: nn.Module) -> tuple[int, int]:
    """Numbers of query heads and of key-value heads of a ``transformers`` network; 0 if its config has none.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> head_counts(causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1})))
        (2, 2)
    """
    config = getattr(network, "config", None)
    config = getattr(config, "text_config", config)
    heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_head", None) or 0
    groups = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "multi_query", False):
        groups = getattr(config, "num_kv_heads", None) if getattr(config, "new_decoder_architecture", False) else 1
    return int(heads), int(groups or heads)


def _interleaved(network: nn.Module, module: nn.Module) -> bool:
    """Whether the rows of a fused matrix are ordered head by head (GPT-NeoX, BLOOM, Falcon without multi-query)."""
    config = getattr(network, "config", None)
    kind = getattr(config, "model_type", "")
    if kind == "falcon":
        return bool(getattr(config, "new_decoder_architecture", False)) or not getattr(config, "multi_query", False)
    return kind in ("gpt_neox", "gpt_neox_japanese", "bloom")


def entries_of(part: Part, shape: torch.Size) -> Tensor:
    """A mask of a parameter's shape that is true on one part.

    Example:
        >>> entries_of(Part(dim=1, spans=((0, 1),)), torch.Size([2, 2]))
        tensor([[ True, False],
                [ True, False]])
    """
    mask = torch.zeros(shape, dtype=torch.bool)
    part.mark(mask)
    return mask
