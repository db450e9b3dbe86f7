"""Observing a network in any run: batches of a new loader, the output of a submodule, the labels."""

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
        for batch in () if self.loader is None else self.loader:
            batch = self.trainer.precision_plugin.convert_input(batch)
            batch = self._hook("on_before_batch_transfer")(batch, 0)
            batch = self._hook("transfer_batch_to_device")(batch, self.trainer.strategy.root_device, 0)
            yield self._hook("on_after_batch_transfer")(batch, 0)

    def _hook(self, name: str) -> Callable[..., Any]:
        of_data = self.data is not None and is_overridden(name, self.data)
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

    Of several loaders it takes the first; there are no batches if neither module nor data module has such a loader.

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
        found = getattr(owner, source)() if is_overridden(source, owner) else None
        return TransferredBatches(trainer, next(iter(found), None) if isinstance(found, list) else found, data)
    own = copy.copy(used[0] if isinstance(used, list) else used)
    if getattr(own, "_iterator", None) is not None:
        own._iterator = None
    return TransferredBatches(trainer, own, None)


@contextmanager
def output_of(module: pl.LightningModule, name: str) -> Iterator[list[Tensor]]:
    """A context with a list that collects the outputs of a submodule, one tensor for each call.

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
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handle = names[name].register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def labels_of(batch: Any) -> Tensor:
    """The classes in a batch: under a key such as ``labels``, or the second of a pair.

    Example:
        >>> labels_of({"images": torch.zeros(2, 3), "labels": torch.tensor([1, 0])})
        tensor([1, 0])
    """
    if isinstance(batch, dict):
        for key in ("labels", "targets", "label", "target", "y"):
            if key in batch:
                return batch[key]
        raise ConfigError("data", sorted(batch), "batches with a key labels")
    return batch[1]
