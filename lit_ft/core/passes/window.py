"""The accumulation window: the micro-batches between two optimizer steps."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor


def window_ends(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the micro-batch ``batch_idx`` (from 0, within its epoch) is the last one before an optimizer step."""
    full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return full or trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches


def window_starts(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the micro-batch ``batch_idx`` (from 0, within its epoch) is the first one after an optimizer step."""
    return batch_idx % trainer.accumulate_grad_batches == 0


def micro_batch_weight(module: pl.LightningModule, batch: Any) -> Tensor | float:
    """The denominator of a module's mean loss over ``batch``: its ``loss_weight(batch)``, or 1 without one.

    A non-callable attribute of that name is ignored.
    """
    declared = getattr(module, "loss_weight", None)
    return declared(batch) if callable(declared) else 1.0
