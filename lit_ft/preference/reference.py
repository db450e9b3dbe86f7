"""The policy that preference losses are measured from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.frozen_base import fingerprint
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.running.cache import cache_folder
from lit_ft.tokens.network import readout


def sequence_log_probs(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    r""":math:`\sum_t w_t\log p(x_t|x_{<t})` of each row, shape (rows,), float32; logits of targets alone, in chunks."""
    found = readout(network, batch).log_probs(batch["input_ids"], batch["weights"])
    return (found * batch["weights"]).sum(1)


class Reference(ABC):
    """Where reference log-probabilities come from; always without dropout."""

    fingerprint: str | None = None

    def attach(self, network: nn.Module) -> None:  # noqa: B027
        """See the network as it was built."""

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:  # noqa: B027
        """See the network before the first step; ``fresh`` is False where the run goes on from a checkpoint."""

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint must keep of it: weights that building the network again does not give."""
        return {}

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """Be the reference of the run that a checkpoint is of, or refuse.

        Args:
            noted: Its fingerprint.
            weights: What ``weights`` gave then.
        """
        if noted is not None and self.fingerprint is not None and noted != self.fingerprint:
            raise ConfigError("reference", "weights other than at the start of that run", "the network it started from")

    @abstractmethod
    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities of the rows of a batch, shape (rows,), without graph."""


class AdapterOff(Reference):
    """The network with its adapter switched off: no second copy. Refused where other parameters train too.

    An adapter that was trained before (``--from``), or one that changes the network from the start, is no part of it: a
    warning says so.

    Cost: a forward a step, no memory.
    """

    def attach(self, network: nn.Module) -> None:
        """Check that switching the adapter off gives back the start."""
        if not hasattr(network, "disable_adapter"):
            raise ConfigError("reference", "AdapterOff", "a network with an adapter (network.peft), or FrozenCopy")
        prefix = getattr(network.base_model, "prefix", "")
        others = [
            name for name, p in network.named_parameters()
            if p.requires_grad and prefix not in name and "modules_to_save" not in name
        ]  # fmt: skip
        if others:
            raise ConfigError(
                "reference", "AdapterOff", f"no trainable parameter beside the adapter, as {others[0]} is"
            )

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Say so where the adapter is no empty one."""
        if fresh:
            _warn_of_adapter(network, "AdapterOff")

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """One forward with the adapter off."""
        with torch.no_grad(), evaluating(network), _adapter_off(network):
            return sequence_log_probs(network, batch)


class FrozenCopy(Reference):
    """A copy of the network from before the first step, built again with the network where a run goes on.

    Checkpoints keep those of its weights that a warm start (``--from``) brought, and no others.

    Cost: a forward a step and the memory of the weights.
    """

    def __init__(self) -> None:
        self._copy: nn.Module | None = None
        self._brought: list[str] = []

    def attach(self, network: nn.Module) -> None:
        """Copy."""
        self._copy = copy.deepcopy(network).requires_grad_(False).eval()
        self.fingerprint = fingerprint(network.named_parameters())

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Take over weights that a warm start brought, in the number format of the run."""
        assert self._copy is not None
        self._copy = trainer.precision_plugin.convert_module(self._copy)
        if fresh:
            built, begun = self._copy.state_dict(), network.state_dict()
            self._brought = [name for name in begun if not torch.equal(begun[name], built[name].to(begun[name].device))]
            self._copy.load_state_dict(begun)
            self.fingerprint = fingerprint(network.named_parameters())

    def weights(self) -> dict[str, Tensor]:
        """Those of a warm start."""
        assert self._copy is not None
        own = self._copy.state_dict() if self._brought else {}
        return {name: own[name] for name in self._brought}

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """Take them over, and refuse where the whole is another one than before."""
        assert self._copy is not None
        if weights:
            self._copy.load_state_dict(weights, strict=False)
            self._brought, self.fingerprint = list(weights), fingerprint(self._copy.named_parameters())
        super().resume(noted, weights)

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """One forward of the copy."""
        assert self._copy is not None
        if self._copy_device != batch["input_ids"].device:
            self._copy.to(batch["input_ids"].device)
        with torch.no_grad():
            return sequence_log_probs(self._copy, batch)

    @property
    def _copy_device(self) -> torch.device:
        assert self._copy is not None
        return next(self._copy.parameters()).device


class CachedLogProbs(Reference):
    """Computed once over training and validation data before the first step, kept on disk.

    Each value belongs to the very tokens, weights and precision that it was computed from, so another template,
    tokenizer or truncation finds none; the file carries the fingerprint of the network, and another start is refused.
    An adapter is off while they are computed.

    Args:
        path: File to keep them in; None chooses one in the cache by fingerprint, so that it never mismatches.

    Cost: one forward over the data, once; nothing in a step.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._values: dict[int, float] = {}
        self._precision = ""
        self._has_base = False

    def attach(self, network: nn.Module) -> None:
        """Note which weights the values are of."""
        self.fingerprint, self._has_base = _base_fingerprint(network), hasattr(network, "disable_adapter")

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """A whole network that was warm-started is not built again, but its values are in the file."""
        if noted is not None and not self._has_base:
            self.fingerprint = noted
        super().resume(noted, weights)

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Read the file, and compute what it lacks."""
        if fresh:
            self.fingerprint = _base_fingerprint(network)
            _warn_of_adapter(network, "CachedLogProbs")
        file = Path(self.path) if self.path else cache_folder() / "reference" / f"{self.fingerprint}.pt"
        if file.exists():
            self._values = _read(file, self.fingerprint)
        before, self._precision = len(self._values), trainer.precision
        same = trainer.precision_plugin.forward_context()  # or the first loss would not be that of equal policies
        with torch.no_grad(), evaluating(network), _adapter_off(network), same:
            for batch in _batches(trainer.datamodule):
                keys = row_keys(batch, self._precision)
                if all(key in self._values for key in keys):
                    continue
                if not fresh and not hasattr(network, "disable_adapter"):
                    raise ConfigError(
                        "reference.path", str(file), "the file of the run that goes on; its start is gone"
                    )
                batch = {name: tensor.to(_device(network)) for name, tensor in batch.items()}
                values = sequence_log_probs(network, batch).tolist()
                self._values |= dict(zip(keys, values, strict=True))
        if trainer.world_size > 1:  # each has computed its share, and trains on other rows in each epoch
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._values)
            for part in parts:
                self._values |= part
        if len(self._values) > before and trainer.is_global_zero:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = torch.tensor(list(self._values.values()), dtype=torch.float32)
            keys_kept = torch.tensor(list(self._values), dtype=torch.int64)
            aside = file.with_suffix(".tmp")
            torch.save({"fingerprint": self.fingerprint, "keys": keys_kept, "values": kept}, aside)
            aside.replace(file)

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Look them up; rows that were not there before the first step (a test) are refused."""
        keys = row_keys(batch, self._precision)
        missing = next((i for i, key in enumerate(keys) if key not in self._values), None)
        if missing is not None:
            given = f"row {int(batch['rows'][missing])}"
            raise ConfigError("reference", given, "rows of training or validation; for others AdapterOff or FrozenCopy")
        found = [self._values[key] for key in keys]
        return torch.tensor(found, dtype=torch.float32, device=batch["input_ids"].device)


def _read(file: Path, wanted: str | None) -> dict[int, float]:
    """The values in a file, which must be of the weights with that fingerprint."""
    allowed = "log-probabilities of the weights that this run starts from"
    try:
        saved = torch.load(file, weights_only=True)
        known, values = saved["fingerprint"], dict(zip(saved["keys"].tolist(), saved["values"].tolist(), strict=True))
    except Exception as error:
        raise ConfigError("reference.path", str(file), f"{allowed}; this is no file of them") from error
    if known != wanted:
        raise ConfigError("reference.path", str(file), allowed)
    return values


def _warn_of_adapter(network: nn.Module, reference: str) -> None:
    """Say so where the network with its adapter, before the first step, is another one than without it."""
    if not hasattr(network, "disable_adapter"):
        return
    ids = torch.arange(8, device=_device(network))[None]
    with torch.no_grad(), evaluating(network):
        with_it = network(input_ids=ids, use_cache=False).logits[:, -8:]
        with network.disable_adapter():  # type: ignore[operator]
            without = network(input_ids=ids, use_cache=False).logits
    if (with_it - without).abs().max() > 0.01 * without.abs().max():
        rank_zero_warn(
            f"the adapter already changes the network before the first step, and {reference} measures from the network"
            " without it: with FrozenCopy the reference is where training starts"
        )


def row_keys(batch: Mapping[str, Tensor], precision: str) -> list[int]:
    """A number for the tokens and weights of each row and a precision, the same whatever it is padded to."""
    import hashlib

    keys = []
    lengths = batch["attention_mask"].sum(1).tolist()
    for ids, weights, length in zip(batch["input_ids"].cpu(), batch["weights"].float().cpu(), lengths, strict=True):
        digest = hashlib.sha256(ids[:length].numpy().tobytes() + weights[:length].numpy().tobytes())
        digest.update(precision.encode())
        keys.append(int.from_bytes(digest.digest()[:8], "little", signed=True))
    return keys


def _batches(data: Any) -> Iterator[Mapping[str, Tensor]]:
    """Batches of all rows, without touching the loaders of the run."""
    if data is None or not hasattr(data, "examples"):
        raise ConfigError("reference", "CachedLogProbs", "a data module of preferences")
    for split in ("train", "val"):
        if split in data.examples:
            yield from data._loader(split, data._buckets(split), training=False)


def _base_fingerprint(network: nn.Module) -> str:
    adapter = hasattr(network, "disable_adapter")
    return fingerprint((n, p) for n, p in network.named_parameters() if not (adapter and p.requires_grad))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _adapter_off(network: nn.Module) -> Any:
    return network.disable_adapter() if hasattr(network, "disable_adapter") else nullcontext()  # type: ignore[operator]
