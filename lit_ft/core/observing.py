"""Observing a network in any run: batches of a new loader, the outputs of its submodules."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.forms import output_in
from lit_ft.core.lightning import either, overridden
from lit_ft.core.method import Method


@dataclass
class TransferredBatches:
    """The batches of a loader as the training loop passes them to a step: precision, transfer hooks, device.

    Args:
        trainer: The trainer of the run.
        loader: The loader; None has no batches.
        data: The data module, whose transfer hooks come before those of the module; None if there is no data module.

    See also: :func:`own_loader`.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1, precision="64-true")
        >>> [batch.dtype for batch in TransferredBatches(trainer, [torch.zeros(2), torch.ones(2)], data=None)]
        [torch.float64, torch.float64]
    """

    trainer: pl.Trainer
    loader: Any
    data: pl.LightningDataModule | None

    def __iter__(self) -> Iterator[Any]:
        together = isinstance(self.loader, either(CombinedLoader))
        for batch in () if self.loader is None else self.loader:
            batch = batch[0] if together else batch
            batch = self.trainer.precision_plugin.convert_input(batch)
            batch = self._hook("on_before_batch_transfer")(batch, 0)
            batch = self._hook("transfer_batch_to_device")(batch, self.trainer.strategy.root_device, 0)
            yield self._hook("on_after_batch_transfer")(batch, 0)

    def _hook(self, name: str) -> Callable[..., Any]:
        of_data = self.data is not None and overridden(name, self.data)
        return getattr(self.data if of_data else self.trainer.lightning_module, name)


def set_up(data: pl.LightningDataModule, trainer: pl.Trainer, stage: str = "fit") -> None:
    """Set up a data module that is not the trainer's own; every process calls it.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1)
        >>> data = GaussianClusters(rows=10, val_fraction=0.2, test_fraction=0.0, batch_size=4)
        >>> set_up(data, trainer)
        >>> len(data.train_dataloader())  # 8 rows
        2
    """
    data.trainer = trainer  # a data module asks its trainer for the tokenizer
    if trainer.local_rank == 0:
        data.prepare_data()
    trainer.strategy.barrier()
    data.setup(stage)


def own_loader(
    trainer: pl.Trainer, module: pl.LightningModule, source: str, other: pl.LightningDataModule | None = None
) -> TransferredBatches:
    """The batches of a new loader: the position of the trainer's own loaders is part of the run.

    Of several loaders to evaluate with it takes the first; several to train with are read together, as Lightning does.
    There are no batches if neither module nor data module has such a loader.

    Args:
        trainer: The trainer of the run.
        module: The module, whose loaders are read if there is no data module.
        source: Name of the method that makes the loader, such as ``val_dataloader``.
        other: A data module instead of the trainer's own.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> module, trainer = fit_foreign([], max_steps=1)
        >>> sum(len(labels) for _, labels in own_loader(trainer, module, "val_dataloader"))
        44
    """
    data = getattr(trainer, "datamodule", None) if other is None else other
    used = {"train_dataloader": trainer.train_dataloader, "val_dataloader": trainer.val_dataloaders}.get(source)
    if data is not None or used is None:
        owner = module if data is None else data
        found = getattr(owner, source)() if overridden(source, owner) else None
        return TransferredBatches(trainer, _one(found, source), data)
    return TransferredBatches(trainer, _one(tree_map(_anew, used), source), None)


def loaders_in(found: Any) -> list[Any]:
    """The loaders that a data module gives to evaluate with: one, or several in a list or mapping.

    A list of batches is one loader.

    Example:
        >>> from lit_ft.testing import ForeignData
        >>> loader = ForeignData().val_dataloader()
        >>> len(loaders_in({"near": loader, "far": loader})), len(loaders_in([torch.zeros(2), torch.zeros(2)]))
        (2, 1)
    """
    own = found.flattened if isinstance(found, either(CombinedLoader)) else found
    own = list(own.values()) if isinstance(own, Mapping) else own
    several = isinstance(own, (list, tuple)) and all(_is_loader(one) for one in own)
    return list(own) if several else [] if own is None else [own]


def _is_loader(value: Any) -> bool:
    batch = isinstance(value, (Tensor, str, Mapping, list, tuple)) or hasattr(value, "keys")
    return isinstance(value, DataLoader) or (hasattr(value, "__iter__") and not batch)


def _one(found: Any, source: str) -> Any:
    """Of several loaders the first, or all of them together to train with."""
    several = isinstance(found, (list, tuple, Mapping))
    if several and source == "train_dataloader":
        return CombinedLoader(found, "max_size_cycle")
    if isinstance(found, either(CombinedLoader)) and source != "train_dataloader":
        return next(iter(found.flattened), None)
    return next(iter(tree_leaves(found)), None) if several else found


def _anew(loader: Any) -> Any:
    own = copy.copy(loader)
    if getattr(own, "_iterator", None) is not None:
        own._iterator = None
    return own


def arguments(step: Callable[..., Any], batch: Any, number: int = 0, loader: int = 0) -> tuple[Any, ...]:
    """What Lightning hands to a ``validation_step``: the numbers of batch and loader only where it takes them.

    Example:
        >>> arguments(lambda batch, batch_idx: None, "rows", 3), arguments(lambda batch: None, "rows", 3)
        (('rows', 3), ('rows',))
        >>> arguments(lambda batch, i, dataloader_idx: None, "rows", 3)
        ('rows', 3, 0)
    """
    if not is_param_in_hook_signature(step, "batch_idx", min_args=2):
        return (batch,)
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in signature(step).parameters.values() if p.kind in places and p.default is Parameter.empty]
    return (batch, number, loader) if loader or len(needed) > 2 else (batch, number)


def outputs_on(module: pl.LightningModule, names: Sequence[str], batch: Any) -> dict[str, list[Tensor]]:
    """What submodules give where the module validates a batch, by name, one tensor for each call.

    Raises:
        ConfigError: A submodule is not called there, or gives what holds no tensor, or the validation does not read it.

    Example:
        >>> from lit_ft.testing import ForeignData, ForeignModule
        >>> class Silent(ForeignModule):
        ...     def log(self, *args, **kwargs):
        ...         pass
        >>> found = outputs_on(Silent(), ["model.0"], next(iter(ForeignData().val_dataloader())))
        >>> [output.shape for output in found["model.0"]]
        [torch.Size([4, 12])]
    """
    with ExitStack() as stack:
        found = {name: stack.enter_context(output_of(module, name)) for name in names}
        try:
            if isinstance(module, Method):
                module.compute(batch)
            else:
                module.validation_step(*arguments(module.validation_step, batch))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            given = f"{type(batch).__name__}, which ends in a {said}"
            raise ConfigError("data", given, f"batches that {type(module).__name__} validates") from error
    if silent := next((name for name, outputs in found.items() if not outputs), None):
        raise ConfigError("module", silent, f"a submodule that gives tensors where {type(module).__name__} validates")
    return found


@contextmanager
def output_of(module: pl.LightningModule, name: str) -> Iterator[list[Tensor]]:
    """A context with a list that collects the outputs of a submodule, one tensor for each call that gives one.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with output_of(network, "0") as outputs:
        ...     _ = network(torch.ones(4, 2))
        >>> [output.shape for output in outputs]
        [torch.Size([4, 3])]
    """
    names = dict(module.named_modules())
    if name not in names:
        raise ConfigError("module", name, f"a submodule of {type(module).__name__}{nearest(name, names)}")
    outputs: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        if (found := output_in(output)) is not None:
            outputs.append(found)

    handle = names[name].register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
