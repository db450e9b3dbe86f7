"""The base of methods whose network reads tokens."""

from typing import Any

from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.method import Method
from lit_ft.tokens.positions import check_positions, longest_texts


class LanguageMethod(Method):
    """A method whose network comes with a tokenizer; the network is a causal language model unless a subclass differs.

    Args:
        network: Where the network and its tokenizer come from.
        optimizer: Makes the optimizer from parameters.
        schedule: Learning-rate schedule; None keeps the rate constant.

    See also: :class:`~lit_ft.methods.SupervisedFineTuning`, :class:`~lit_ft.methods.DPO`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> method = LanguageMethod({"config": config})
        >>> method.configure_model()
        >>> type(method.network).__name__, method.tokenizer.decode(method.tokenizer("text")["input_ids"])
        ('GPT2LMHeadModel', 'text')
    """

    def setup(self, stage: str) -> None:
        """Refuse longer texts than the network has positions, and data that another tokenizer made tokens of.

        A data module is set up once, and may have been in an earlier run.
        """
        super().setup(stage)
        self._check_length()
        theirs = getattr(data_of(self), "tokenizer", None)
        if theirs is None or theirs is self._tokenizer or self.tokenizer is None:
            return
        if theirs.get_vocab() != self.tokenizer.get_vocab():
            allowed = "a data module that no model with another tokenizer has used"
            raise ConfigError("data", "tokens of another tokenizer", allowed)

    def after_build(self, network: nn.Module) -> None:
        """Refuse a network with fewer embeddings than the tokenizer has tokens, or positions than texts are long.

        The tokenizer is checked only if it was loaded: data that need it have loaded it by now.
        """
        self._check_length()
        embedding = getattr(network, "get_input_embeddings", lambda: None)()
        known = getattr(embedding, "num_embeddings", None)
        if self.spec is None or known is None or self._tokenizer is None:
            return
        if len(self._tokenizer) > known:
            allowed = f"a tokenizer of at most {known} tokens, the network's; this one has {len(self._tokenizer)}"
            raise ConfigError("network", self.spec.path or self.spec.config, allowed)

    def _check_length(self) -> None:
        for name, tokens in longest_texts(data_of(self)).items():
            check_positions(name, tokens, self.network)

    def build_network(self) -> nn.Module:
        """The causal language model."""
        from lit_ft.models.build import causal_lm

        assert self.spec is not None
        return causal_lm(self.spec)

    def build_tokenizer(self) -> Any:
        """The tokenizer of the network; None where the network is a module given from Python."""
        from lit_ft.models.build import tokenizer

        return None if self.spec is None else tokenizer(self.spec)
