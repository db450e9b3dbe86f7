"""Reference policies of preference losses."""

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
from lit_ft.models.adapter import changed_base
from lit_ft.running.cache import cache_folder
from lit_ft.running.files import commit, digest_file, is_whole
from lit_ft.tokens.network import readout


def sequence_log_probs(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    r""":math:`\sum_t w_t\log p(x_t|x_{<t})` of each row, shape (rows,), float32; logits of targets only, in chunks.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}
        >>> network = causal_lm(Network(config=config)).eval()
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "weights": torch.tensor([[0.0, 1.0, 1.0]])}
        >>> log_probs = network(batch["input_ids"]).logits.log_softmax(-1)[0]
        >>> torch.allclose(sequence_log_probs(network, batch), log_probs[0, 6] + log_probs[1, 7])
        True
    """
    found = readout(network, batch).log_probs(batch["input_ids"], batch["weights"])
    return (found * batch["weights"]).sum(1)


class Reference(ABC):
    """The source of reference log-probabilities; always without dropout.

    See also: :class:`AdapterOff`, :class:`FrozenCopy`, :class:`CachedLogProbs`.

    Example:
        >>> class Uniform(Reference):
        ...     def log_probs(self, network, batch):
        ...         return -batch["weights"].sum(1) * torch.tensor(256.0).log()
        >>> Uniform().log_probs(nn.Linear(2, 2), {"weights": torch.tensor([[0.0, 1.0, 1.0]])})
        tensor([-11.0904])
    """

    fingerprint: str | None = None

    def attach(self, network: nn.Module) -> None:  # noqa: B027
        """Called with the network just after it was built."""

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:  # noqa: B027
        """Called before the first step; ``fresh`` is False where the run resumes from a checkpoint."""

    def weights(self) -> dict[str, Tensor]:
        """Weights for the checkpoint: those that building the network again does not give."""
        return {}

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """Restore the reference of the run that wrote a checkpoint, or refuse.

        Args:
            noted: Fingerprint of the reference in the checkpoint.
            weights: Weights of the reference in the checkpoint.
        """
        if noted is not None and self.fingerprint is not None and noted != self.fingerprint:
            raise ConfigError("reference", "weights other than at the start of that run", "the network it started from")

    @abstractmethod
    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities of the rows of a batch, shape (rows,), without graph."""


class AdapterOff(Reference):
    """The network with its adapter switched off: no second copy.

    Refused where other parameters train too, or where the start of the adapter changed the base (PiSSA).

    The reference does not include an adapter that was trained before (``--from``), or one that changes the network from
    the start; a warning is given for these.

    Cost: one forward pass per step, no memory.

    See also: :class:`FrozenCopy`.

    Example:
        >>> AdapterOff().attach(nn.Linear(2, 2))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: AdapterOff.reference: given 'AdapterOff'; allowed: a network with an adapter ...
    """

    def attach(self, network: nn.Module) -> None:
        """Refuse a network whose start is not that without its adapter."""
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

        _refuse_changed_base(network, "AdapterOff")

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Warn of an adapter that already changes the network."""
        if fresh:
            _warn_of_adapter(network, "AdapterOff")

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """One forward pass with the adapter off."""
        with torch.no_grad(), evaluating(network), _adapter_off(network):
            return sequence_log_probs(network, batch)


class FrozenCopy(Reference):
    """A copy of the network from before the first step; a resumed run builds it again with the network.

    Checkpoints store only those of its weights that came from a warm start (``--from``).

    Cost: one forward pass per step, and the memory of the weights.

    See also: :class:`AdapterOff`, :class:`CachedLogProbs`.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}
        >>> network = causal_lm(Network(config=config)).eval()
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "weights": torch.tensor([[0.0, 1.0, 1.0]])}
        >>> reference = FrozenCopy()
        >>> reference.attach(network)
        >>> before = reference.log_probs(network, batch)
        >>> network.transformer.wte.weight.data.zero_().sum()  # training changes the network, not the copy
        tensor(0.)
        >>> after = sequence_log_probs(network, batch)
        >>> torch.equal(reference.log_probs(network, batch), before), torch.equal(after, before)
        (True, False)
    """

    def __init__(self) -> None:
        self._copy: nn.Module | None = None
        self._brought: list[str] = []

    def attach(self, network: nn.Module) -> None:
        """Copy the network."""
        self._copy = copy.deepcopy(network).requires_grad_(False).eval()
        self.fingerprint = fingerprint(network.named_parameters())

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Copy the weights of a warm start, in the precision of the run."""
        assert self._copy is not None
        self._copy = trainer.precision_plugin.convert_module(self._copy)
        if fresh:
            built, begun = self._copy.state_dict(), network.state_dict()
            self._brought = [name for name in begun if not torch.equal(begun[name], built[name].to(begun[name].device))]
            self._copy.load_state_dict(begun)
            self.fingerprint = fingerprint(network.named_parameters())

    def weights(self) -> dict[str, Tensor]:
        """The weights of a warm start."""
        assert self._copy is not None
        own = self._copy.state_dict() if self._brought else {}
        return {name: own[name] for name in self._brought}

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a warm start; refuse where the copy differs from that of the checkpoint."""
        assert self._copy is not None
        if weights:
            self._copy.load_state_dict(weights, strict=False)
            self._brought, self.fingerprint = list(weights), fingerprint(self._copy.named_parameters())
        super().resume(noted, weights)

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """One forward pass of the copy."""
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
    """Log-probabilities computed once over training and validation data before the first step, kept on disk.

    Values are stored by the tokens, weights and precision that they were computed from, so that another template,
    tokenizer or truncation computes new ones; several runs may add to one file at once. The file holds the fingerprint
    of the network; a run from other weights is refused. Adapters are off in this pass. Rows of a test have no values
    and are refused.

    Args:
        path: File of the values; None chooses one in the cache by fingerprint, which always matches.

    Cost: one forward pass over the data, once; nothing per step.

    See also: :class:`AdapterOff`, :class:`FrozenCopy`, :func:`row_keys`.

    Example:
        >>> tokens = torch.tensor([[5, 6, 7]])
        >>> batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "weights": torch.ones(1, 3)}
        >>> CachedLogProbs().log_probs(nn.Linear(2, 2), {**batch, "rows": torch.tensor([4])})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: CachedLogProbs.reference: given 'row 4'; allowed: rows of training ...
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._values: dict[int, float] = {}
        self._precision = ""
        self._has_base = False

    def attach(self, network: nn.Module) -> None:
        """Take the fingerprint of the network; refuse one whose base is none without the adapter."""
        _refuse_changed_base(network, "CachedLogProbs")
        self.fingerprint, self._has_base = _base_fingerprint(network), hasattr(network, "disable_adapter")

    def resume(self, noted: str | None, weights: Mapping[str, Tensor]) -> None:
        """Take the fingerprint of the checkpoint: building the network lacks the weights of a warm start."""
        if noted is not None and not self._has_base:
            self.fingerprint = noted
        super().resume(noted, weights)

    def start(self, network: nn.Module, trainer: Any, fresh: bool) -> None:
        """Read the file, and compute missing values."""
        if fresh:
            self.fingerprint = _base_fingerprint(network)
            _warn_of_adapter(network, "CachedLogProbs")
        file = Path(self.path) if self.path else cache_folder() / "reference" / f"{self.fingerprint}.pt"
        if file.exists():
            self._values = self._known(file, fresh)
        before, self._precision = len(self._values), trainer.precision
        same = trainer.precision_plugin.forward_context()  # else the first loss is not that of equal policies
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
        if trainer.world_size > 1:  # each rank computed the values of its rows, and trains on others in later epochs
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._values)
            for part in parts:
                self._values |= part
        if len(self._values) > before and trainer.is_global_zero:
            _add(file, self.fingerprint, self._values)

    def _known(self, file: Path, fresh: bool) -> dict[int, float]:
        """The values in a file; one in the cache that is damaged is written anew where the run begins."""
        if self.path is None and fresh and not _is_as_written(file):
            rank_zero_warn(f"{file} is damaged (its digest does not match); its values are computed anew")
            return {}
        return _read(file, self.fingerprint)

    def log_probs(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Look up the values of rows; rows without a value (those of a test) are refused."""
        keys = row_keys(batch, self._precision)
        missing = next((i for i, key in enumerate(keys) if key not in self._values), None)
        if missing is not None:
            given = f"row {int(batch['rows'][missing])}"
            raise ConfigError("reference", given, "rows of training or validation; for others AdapterOff or FrozenCopy")
        found = [self._values[key] for key in keys]
        return torch.tensor(found, dtype=torch.float32, device=batch["input_ids"].device)


def _add(file: Path, fingerprint: str | None, values: Mapping[int, float]) -> None:
    """Write values into a file, beside those that another run may have written meanwhile."""
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        known = _read(file, fingerprint) if file.exists() and _is_as_written(file) else {}
        known |= values
        keys = torch.tensor(list(known), dtype=torch.int64)
        content = {"fingerprint": fingerprint, "keys": keys, "values": torch.tensor([*known.values()]).float()}
        aside = file.with_name(f".{file.name}.tmp")
        torch.save(content, aside)
        commit(aside, file)


def _is_as_written(file: Path) -> bool:
    """Whether a file is not damaged; one without a digest, of an older version, counts as whole."""
    return is_whole(file) or not digest_file(file).exists()


def _read(file: Path, wanted: str | None) -> dict[int, float]:
    """The values in a file; a damaged one, or one of weights with another fingerprint, is refused."""
    allowed = "log-probabilities of the weights that this run starts from"
    if not _is_as_written(file):
        raise ConfigError("reference.path", str(file), f"{allowed}; this file is damaged (its digest does not match)")
    try:
        saved = torch.load(file, weights_only=True)
        known, values = saved["fingerprint"], dict(zip(saved["keys"].tolist(), saved["values"].tolist(), strict=True))
    except Exception as error:
        raise ConfigError("reference.path", str(file), f"{allowed}; this is no file of them") from error
    if known != wanted:
        raise ConfigError("reference.path", str(file), allowed)
    return values


def _refuse_changed_base(network: nn.Module, reference: str) -> None:
    changed = changed_base(network)
    if changed:
        allowed = f"FrozenCopy: the start of this adapter changed the base ({changed[0]}), which is none without it"
        raise ConfigError("reference", reference, allowed)


def _warn_of_adapter(network: nn.Module, reference: str) -> None:
    """Warn where the adapter changes the outputs of the network before the first step."""
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
    """A hash of the tokens and weights of each row and of the precision, independent of padding.

    Example:
        >>> ids, mask = torch.tensor([[5, 6, 0], [5, 6, 0]]), torch.tensor([[1, 1, 0], [1, 1, 0]])
        >>> weights = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.0]])
        >>> batch = {"input_ids": ids, "attention_mask": mask, "weights": weights}
        >>> shorter = {name: tensor[:, :2] for name, tensor in batch.items()}
        >>> first, second = row_keys(batch, "32-true")
        >>> first != second, row_keys(shorter, "32-true") == [first, second]
        (True, True)
    """
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
