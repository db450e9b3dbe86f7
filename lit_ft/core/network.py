"""The plain description of a network, as written in YAML and stored in checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lit_ft.core.errors import ConfigError
from lit_ft.core.plain import from_mapping
from lit_ft.core.trust import refuse_remote_code


@dataclass
class Network:
    """Where a network comes from and in which form it is loaded.

    Exactly one of ``path`` and ``config`` is given. ``lit_ft.models`` builds the network from it.

    Args:
        path: A folder, a hub id, a ``.gguf`` file, or ``packaged:NAME`` for weights that come inside a Python package.
        config: A configuration for random weights, such as ``{model_type: llama, hidden_size: 64, ...}``; with
            ``path`` absent. A key ``tokenizer`` may name a folder or ``packaged:NAME`` for the text side.
        dtype: Type of the weights in memory.
        attention: Attention kernel of ``transformers`` (``eager``, ``sdpa`` ...); None leaves the model's own default.
            On a CPU ``sdpa`` is computed in float32 in half precision too, where torch's kernel is slow.
        attention_bias: Add zero biases to attention layers without biases, such as Llama's. The function is unchanged,
            and ``HeadOffsets`` can be folded into them.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        peft: An adapter, ``{class_path: peft.LoraConfig, init_args: {r: 8, target_modules: all-linear}}``. The base is
            frozen, statistics of batch norm included; what its path has no weights for (a new head) is trained whole.
            Checkpoints hold these, what the adapter's start changed in the base, and the settings. What a method cannot
            do as it is promised (ranks allocated by a call after each step, starts from data ...) is refused.
        trust_remote_code: Run Python code that comes with the model. Off; switch it on only for code you have read. It
            counts in Python and on the command line of a run, and is refused in files.

    Example:
        >>> Network.of({"config": {"model_type": "mlp", "width": 32}, "dtype": "bfloat16"}).dtype
        'bfloat16'
        >>> Network.of({"path": "gpt2", "dtyp": "bfloat16"})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: network.dtyp: given 'bfloat16'; allowed: ... (did you mean 'dtype'?)
    """

    path: str | None = None
    config: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attention: str | None = None
    attention_bias: bool = False
    gradient_checkpointing: bool = False
    peft: dict[str, Any] | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse neither or both of ``path`` and ``config``, and code from elsewhere that nobody said to trust."""
        if (self.path is None) == (self.config is None):
            raise ConfigError("network", {"path": self.path, "config": self.config}, "exactly one of path and config")
        if self.trust_remote_code:
            refuse_remote_code("network.trust_remote_code", self)
        if "/" in (self.attention or "") and not self.trust_remote_code:
            raise ConfigError(
                "network.attention", self.attention, "a kernel of transformers; one of the hub is remote code"
            )

    @classmethod
    def of(cls, spec: "Network | Mapping[str, Any]") -> "Network":
        """The description from a mapping; an unknown key or a wrong value is an error."""
        return spec if isinstance(spec, Network) else from_mapping(cls, spec, "network")

    def plain(self) -> dict[str, Any]:
        """The description as plain data, for checkpoints."""
        return asdict(self)
