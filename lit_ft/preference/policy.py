"""The base of methods that train a language model against a reference policy."""

from __future__ import annotations

from typing import Any

from torch import nn

from lit_ft.core.network import Network
from lit_ft.preference.reference import AdapterOff, FrozenCopy, Reference
from lit_ft.tokens.language_method import LanguageMethod


class Policy(LanguageMethod):
    """A causal language model without dropout, and the reference policy that its log-ratios are relative to.

    The reference has the weights from before the first step, also where a run resumes from a checkpoint; a reference
    with another fingerprint is refused.

    Args:
        network: A causal language model.
        reference: ``AdapterOff``, ``FrozenCopy`` or ``CachedLogProbs``; None takes the first where there is an adapter,
            else the second. Not used by losses without a reference.
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    See also: :class:`~lit_ft.methods.DPO`, :class:`~lit_ft.preference.unpaired_policy.UnpairedPolicy`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = Policy({"config": config})
        >>> model.configure_model()
        >>> type(model.reference).__name__, {part.p for part in model.network.modules() if isinstance(part, nn.Dropout)}
        ('FrozenCopy', {0.0})
    """

    needs_reference: bool = True  # False where the loss has none

    def __init__(self, network: Network, reference: Reference | None = None, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        self.reference, self._resumed, self._begun = reference, False, False

    def after_build(self, network: nn.Module) -> None:
        """Switch dropout off, and attach the reference."""
        super().after_build(network)
        without_dropout(network)
        if self.needs_reference:
            if self.reference is None:
                self.reference = AdapterOff() if hasattr(network, "disable_adapter") else FrozenCopy()
            self.reference.attach(network)

    def on_fit_start(self) -> None:
        """Fix the reference at the weights before the first step."""
        if self.reference is not None and self.needs_reference:
            self.reference.start(self.network, self.trainer, fresh=not self._resumed and not self.global_step)
            self._begun = True

    def on_validation_start(self) -> None:
        """Fix the reference where nothing is trained."""
        if not self._begun:
            self.on_fit_start()

    def on_test_start(self) -> None:
        """Fix the reference where nothing is trained."""
        self.on_validation_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the fingerprint of the reference, and those of its weights that building the network does not give."""
        super().on_save_checkpoint(checkpoint)
        if self.reference is not None and self.reference.fingerprint is not None:
            checkpoint["reference"] = self.reference.fingerprint
            checkpoint["reference_weights"] = self.reference.weights()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the reference, and refuse another one."""
        super().on_load_checkpoint(checkpoint)
        self._resumed = self._trainer is not None  # load_from_checkpoint has none, and starts anew
        if self.reference is not None and self.needs_reference:
            self.reference.resume(checkpoint.get("reference"), checkpoint.get("reference_weights", {}))


def without_dropout(network: nn.Module) -> None:
    """Set every dropout probability of a network to 0: those of layers, and those that others store as numbers.

    Attention does so, and adapters such as LoHa, which have one for each adapter by its name.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        >>> without_dropout(network)
        >>> network[1]
        Dropout(p=0.0, inplace=False)
    """
    for module in network.modules():
        if "dropout" in type(module).__name__.lower() and isinstance(getattr(module, "p", None), float):
            module.p = 0.0  # type: ignore[assignment]
        for name, value in vars(module).items():
            if "dropout" not in name and name != "layerdrop":
                continue
            if isinstance(value, float):
                setattr(module, name, 0.0)
            elif isinstance(value, dict):
                value.update({key: 0.0 for key, one in value.items() if isinstance(one, float)})
