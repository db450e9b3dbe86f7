"""What methods share that train a language model against a reference policy."""

from __future__ import annotations

from typing import Any

from torch import nn

from lit_ft.core.network import Network
from lit_ft.preference.reference import AdapterOff, FrozenCopy, Reference
from lit_ft.tokens.language_method import LanguageMethod


class Policy(LanguageMethod):
    """A causal language model without dropout, beside the policy that it is measured from.

    The reference is that of the weights before the first step, also where a run goes on from a checkpoint; another one
    is refused by its fingerprint.

    Args:
        network: A causal language model.
        reference: ``AdapterOff``, ``FrozenCopy`` or ``CachedLogProbs``; None takes the first where there is an adapter,
            else the second. Not used by losses without a reference.
        **kwargs: As in :class:`Method`.
    """

    needs_reference: bool = True  # False where the loss has none

    def __init__(self, network: Network, reference: Reference | None = None, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        self.reference, self._resumed, self._begun = reference, False, False

    def after_build(self, network: nn.Module) -> None:
        """Switch dropout off, and let the reference see the network."""
        super().after_build(network)
        without_dropout(network)
        if self.needs_reference:
            if self.reference is None:
                self.reference = AdapterOff() if hasattr(network, "disable_adapter") else FrozenCopy()
            self.reference.attach(network)

    def on_fit_start(self) -> None:
        """The reference is that of the weights before the first step."""
        if self.reference is not None and self.needs_reference:
            self.reference.start(self.network, self.trainer, fresh=not self._resumed and not self.global_step)
            self._begun = True

    def on_validation_start(self) -> None:
        """Also where nothing is trained."""
        if not self._begun:
            self.on_fit_start()

    def on_test_start(self) -> None:
        """As for validation."""
        self.on_validation_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the fingerprint of the reference, and what building the network again would not give."""
        super().on_save_checkpoint(checkpoint)
        if self.reference is not None and self.reference.fingerprint is not None:
            checkpoint["reference"] = self.reference.fingerprint
            checkpoint["reference_weights"] = self.reference.weights()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from another reference."""
        super().on_load_checkpoint(checkpoint)
        self._resumed = self._trainer is not None  # load_from_checkpoint has none: what is trained next starts there
        if self.reference is not None and self.needs_reference:
            self.reference.resume(checkpoint.get("reference"), checkpoint.get("reference_weights", {}))


def without_dropout(network: nn.Module) -> None:
    """Set every dropout probability of a network to 0: layers, and those that attention reads as numbers."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
