"""Looking at a network in a run of somebody else: its own batches, the output of one of its parts, the labels."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lit_ft.core.errors import ConfigError, nearest


def own_loader(trainer: pl.Trainer, module: pl.LightningModule, source: str) -> Iterable[Any]:
    """The batches of a loader that the trainer does not use: how far it has come is part of the run.

    Of several loaders the first. The batches are ready for ``trainer.strategy.batch_to_device``.
    """
    data = getattr(trainer, "datamodule", None)
    used = {"train_dataloader": trainer.train_dataloader, "val_dataloader": trainer.val_dataloaders}.get(source)
    if data is not None or used is None:
        found = getattr(module if data is None else data, source)()
        return Handed(trainer, found[0] if isinstance(found, list) else found)
    own = copy.copy(used[0] if isinstance(used, list) else used)
    if getattr(own, "_iterator", None) is not None:
        own._iterator = None
    return Handed(trainer, own)


@dataclass
class Handed:
    """The batches of a loader with what the training loop does to them before their transfer: hooks, precision."""

    trainer: pl.Trainer
    loader: Any

    def __iter__(self) -> Iterator[Any]:
        for batch in () if self.loader is None else self.loader:
            batch = self.trainer.precision_plugin.convert_input(batch)
            yield self.trainer.lightning_module._on_before_batch_transfer(batch)


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
