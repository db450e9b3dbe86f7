"""Checkpoints of adapters and other small trainable sets, stored without the frozen base."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.adapters import adapted, adapter_settings, fixed_norms, refuse_other_adapter
from lit_ft.core.errors import ConfigError

_BUILT = "lit_ft_built"  # an attribute of a parameter, kept where its values are converted or moved


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, in the order of their names.

    Example:
        >>> one = fingerprint({"a": torch.zeros(1), "b": torch.ones(1)}.items())
        >>> one == fingerprint({"b": torch.ones(1), "a": torch.zeros(1)}.items())
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def mark_built(tensor: Tensor, of_base: bool = False) -> None:
    """Note that the values of a weight were made here, and do not come from the network's path.

    Args:
        tensor: A parameter or a buffer.
        of_base: Whether the path has other values for it.

    See also: :func:`is_built`, :func:`is_changed`.

    Example:
        >>> head = nn.Linear(2, 1)
        >>> mark_built(head.weight)
        >>> is_built(head.weight), is_built(head.bias), is_changed(head.weight)
        (True, False, False)
    """
    setattr(tensor, _BUILT, "changed" if of_base else "new")


def is_built(tensor: Tensor) -> bool:
    """Whether the network's path does not give the values of a weight back."""
    return hasattr(tensor, _BUILT)


def is_changed(tensor: Tensor) -> bool:
    """Whether the network's path has other values for a weight of a frozen base."""
    return getattr(tensor, _BUILT, None) == "changed"


class FrozenBase:
    """Keeps weights that are still as the network's path gives them out of checkpoints.

    A weight is left out when it does not require a gradient, was not made by building (a new head, a base that an
    adapter's start changed) and was not written to since ``remember``. Fingerprints of the weights that were left out
    are stored instead, and the settings of adapters, which stand in no weight; a checkpoint with others is refused.

    See also: :func:`fingerprint`, :func:`mark_built`.

    Example:
        >>> network, base = nn.Linear(2, 1), FrozenBase()
        >>> base.remember(network)
        >>> network.weight.requires_grad = False
        >>> checkpoint = {"state_dict": network.state_dict()}
        >>> base.leave_out(network, "", checkpoint)
        >>> list(checkpoint["state_dict"]), checkpoint["frozen_base"]["names"]
        (['bias'], ['weight'])
    """

    KEY, ADAPTERS = "frozen_base", "adapters"

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._left_out: set[str] = set()
        self._known: dict[str, str] = {}

    def remember(self, network: nn.Module) -> None:
        """Note the state of every parameter just after the network was built."""
        self._versions = {
            name: p._version for name, p in network.named_parameters(remove_duplicate=False) if not is_built(p)
        }

    def _untouched(self, network: nn.Module) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for name, parameter in network.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad and self._versions.get(name) == parameter._version
        }

    def _fingerprints(self, tensors: dict[str, nn.Parameter], names: Sequence[str]) -> list[str]:
        for name in names:
            if name not in self._known:
                self._known[name] = fingerprint([("", tensors[name])])
        return [self._known[name] for name in names]

    def leave_out(self, network: nn.Module, prefix: str, checkpoint: dict[str, Any]) -> None:
        """Take the untouched frozen weights out of ``checkpoint["state_dict"]``, and note what is not in the others."""
        settings = adapter_settings(network)
        if settings:
            checkpoint[self.ADAPTERS] = settings
        base = self._untouched(network)
        names = [name for name in base if prefix + name in checkpoint["state_dict"]]
        if not names:
            return
        for name in names:
            del checkpoint["state_dict"][prefix + name]
        checkpoint[self.KEY] = {"names": names, "fingerprints": self._fingerprints(base, names)}

    def check(self, network: nn.Module, prefix: str, checkpoint: Mapping[str, Any], whole: bool = True) -> None:
        """Refuse a checkpoint whose frozen base or adapter settings differ from those of ``network``.

        Args:
            network: The network that takes the weights.
            prefix: Of its names in the checkpoint.
            checkpoint: The whole checkpoint.
            whole: Whether the network must have all of that base; else what both have is compared.
        """
        saved = checkpoint.get(self.ADAPTERS, {})
        refuse_other_adapter(network, saved, whole)
        own = [f"{prefix}{name}" for name, p in network.named_parameters() if p.requires_grad]
        if whole and not saved and adapter_settings(network) and not any(n in checkpoint["state_dict"] for n in own):
            raise ConfigError("network.peft", "an adapter", "null: the checkpoint was trained without one")
        note = checkpoint.get(self.KEY)
        if note is None:
            return
        present = dict(network.named_parameters(remove_duplicate=False))
        names = [name for name in note["names"] if name in present]
        if whole and len(names) < len(note["names"]):
            absent = next(name for name in note["names"] if name not in present)
            raise ConfigError("network", f"a network without {absent}", "the base that the checkpoint was trained on")
        if "fingerprints" in note:
            saved = dict(zip(note["names"], note["fingerprints"], strict=True))
            pairs = zip(names, self._fingerprints(present, names), strict=True)
            other = next((name for name, found in pairs if found != saved[name]), None)
        else:  # as written before there was one for each weight
            comparable = len(names) == len(note["names"])
            same = not comparable or fingerprint((n, present[n]) for n in names) == note["fingerprint"]
            other = None if same else "one of its weights"
        if other is not None:
            allowed = f"the base that the checkpoint was trained on (see network.path); {other} differs"
            raise ConfigError("network", "a base with other weights", allowed)
        if whole:
            self._left_out = {prefix + name for name in names}

    def about_to_load(self, network: nn.Module | None, prefix: str, state: Mapping[str, Any]) -> set[str]:
        """Mark frozen weights beside an adapter that other values are loaded into.

        Returns:
            The keys that may be missing in the state; of a second state, none may.
        """
        left_out, self._left_out = self._left_out, set()
        if network is not None and adapted(network):
            statistics = {id(buffer) for norm in fixed_norms(network) for buffer in norm.buffers()}
            frozen = [(name, p) for name, p in network.named_parameters() if not p.requires_grad]
            frozen += [(name, b) for name, b in network.named_buffers() if id(b) in statistics]  # type: ignore[misc]
            for name, tensor in frozen:
                loaded = state.get(prefix + name)
                if loaded is not None and not is_built(tensor) and not _equal(loaded, tensor):
                    mark_built(tensor, of_base=True)
        return left_out


def _equal(loaded: Tensor, tensor: Tensor) -> bool:
    return loaded.shape == tensor.shape and torch.equal(loaded.to(tensor.device, tensor.dtype), tensor.detach())
