"""What methods share whose network reads tokens."""

from typing import Any

from torch import nn

from lit_ft.core.method import Method


class LanguageMethod(Method):
    """A method whose network comes with a tokenizer; the network is a causal language model unless a subclass differs.

    Args:
        network: Where the network and its tokenizer come from.
        optimizer: Makes the optimizer from parameters.
        schedule: How the learning rate moves; None keeps it constant.
    """

    def build_network(self) -> nn.Module:
        """The causal language model."""
        from lit_ft.models import causal_lm

        assert self.spec is not None
        return causal_lm(self.spec)

    def build_tokenizer(self) -> Any:
        """The tokenizer of the network; None where the network is a module given from Python."""
        from lit_ft.models import tokenizer

        return None if self.spec is None else tokenizer(self.spec)
