"""Looking at a network in a run of somebody else: batches of one's own, the output of one of its parts, the labels."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lit_ft.core.errors import ConfigError, nearest


@dataclass
class Handed:
    """The batches of a loader as the training loop would hand them to a step: precision, data hooks, device.

    Args:
        trainer: Of the run.
        loader: None has no batches.
        data: Whose hooks are asked before those of the module; None where the batches come from no data module.
    """

    trainer: pl.Trainer
    loader: Any
    data: pl.LightningDataModule | None

    def __iter__(self) -> Iterator[Any]:
        for batch in () if self.loader is None else self.loader:
            batch = self.trainer.precision_plugin.convert_input(batch)
            batch = self._hook("on_before_batch_transfer")(batch, 0)
            batch = self._hook("transfer_batch_to_device")(batch, self.trainer.strategy.root_device, 0)
            yield self._hook("on_after_batch_transfer")(batch, 0)

    def _hook(self, name: str) -> Callable[..., Any]:
        of_data = self.data is not None and is_overridden(name, self.data)
        return getattr(self.data if of_data else self.trainer.lightning_module, name)


def set_up(data: pl.LightningDataModule, trainer: pl.Trainer, stage: str = "fit") -> None:
    """Set up a data module that is not the trainer's own; every process calls it."""
    data.trainer = trainer  # a data module asks its trainer for the tokenizer
    if trainer.local_rank == 0:
        data.prepare_data()
    trainer.strategy.barrier()
    data.setup(stage)


def own_loader(
    trainer: pl.Trainer, module: pl.LightningModule, source: str, other: pl.LightningDataModule | None = None
) -> Handed:
    """The batches of a loader that the trainer does not use: how far it has come is part of the run.

    Of several loaders the first; no batches where nobody has such a loader.

    Args:
        trainer: Of the run.
        module: Asked for loaders where there is no data module.
        source: Name of the method that makes the loader, such as ``val_dataloader``.
        other: The data module in the place of the trainer's own.
    """
    data = getattr(trainer, "datamodule", None) if other is None else other
    used = {"train_dataloader": trainer.train_dataloader, "val_dataloader": trainer.val_dataloaders}.get(source)
    if data is not None or used is None:
        owner = module if data is None else data
        found = getattr(owner, source)() if is_overridden(source, owner) else None
        return Handed(trainer, next(iter(found), None) if isinstance(found, list) else found, data)
    own = copy.copy(used[0] if isinstance(used, list) else used)
    if getattr(own, "_iterator", None) is not None:
        own._iterator = None
    return Handed(trainer, own, None)


@contextmanager
def output_of(module: pl.LightningModule, name: str) -> Iterator[list[Tensor]]:
    """Inside, a list that collects what a submodule gives out, one tensor a call."""
    names = dict(module.named_modules())
    if name not in names:
        raise ConfigError("module", name, f"a submodule of {type(module).__name__}{nearest(name, names)}")
    outputs: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handle = names[name].register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def labels_of(batch: Any) -> Tensor:
    """The classes in a batch: of a key such as ``labels``, or the second of a pair."""
    if isinstance(batch, dict):
        for key in ("labels", "targets", "label", "target", "y"):
            if key in batch:
                return batch[key]
        raise ConfigError("data", sorted(batch), "batches with a key labels")
    return batch[1]
