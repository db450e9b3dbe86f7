"""Checkpoints of adapters and other small trainable sets, stored without the frozen base."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError


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


class FrozenBase:
    """Keeps weights that are still as they were built out of checkpoints.

    A weight is left out when it does not require a gradient and was not written to since ``remember``. A fingerprint of
    the weights that were left out is stored instead; a checkpoint with another one is refused.

    See also: :func:`fingerprint`.

    Example:
        >>> network, base = nn.Linear(2, 1), FrozenBase()
        >>> base.remember(network)
        >>> network.weight.requires_grad = False
        >>> checkpoint = {"state_dict": network.state_dict()}
        >>> base.leave_out(network, "", checkpoint)
        >>> list(checkpoint["state_dict"]), checkpoint["frozen_base"]["names"]
        (['bias'], ['weight'])
    """

    KEY = "frozen_base"

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._left_out: set[str] = set()
        self._known: tuple[tuple[str, ...], str] | None = None

    def remember(self, network: nn.Module) -> None:
        """Note the state of every parameter just after the network was built."""
        self._versions = {name: p._version for name, p in network.named_parameters(remove_duplicate=False)}

    def _untouched(self, network: nn.Module) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for name, parameter in network.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad and self._versions.get(name) == parameter._version
        }

    def _fingerprint(self, base: dict[str, nn.Parameter]) -> str:
        names = tuple(base)
        if self._known is None or self._known[0] != names:
            self._known = names, fingerprint(base.items())
        return self._known[1]

    def leave_out(self, network: nn.Module, prefix: str, checkpoint: dict[str, Any]) -> None:
        """Take the untouched frozen weights out of ``checkpoint["state_dict"]``."""
        base = self._untouched(network)
        names = [name for name in base if prefix + name in checkpoint["state_dict"]]
        if not names:
            return
        for name in names:
            del checkpoint["state_dict"][prefix + name]
        checkpoint[self.KEY] = {"names": names, "fingerprint": self._fingerprint({n: base[n] for n in names})}

    def check(self, network: nn.Module, prefix: str, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose frozen base differs from that of ``network``."""
        note = checkpoint.get(self.KEY)
        if note is None:
            return
        present = dict(network.named_parameters(remove_duplicate=False))
        absent = [name for name in note["names"] if name not in present]
        if absent:
            raise ConfigError(
                "network", f"a network without {absent[0]}", "the base that the checkpoint was trained on"
            )
        if self._fingerprint({name: present[name] for name in note["names"]}) != note["fingerprint"]:
            raise ConfigError(
                "network", "a base with other weights", "the base that the checkpoint was trained on (see network.path)"
            )
        self._left_out = {prefix + name for name in note["names"]}

    def take_left_out(self) -> set[str]:
        """The keys that may be missing in the next ``load_state_dict``; a second call returns none."""
        left_out, self._left_out = self._left_out, set()
        return left_out
