"""Weights that Lightning's stochastic weight averaging puts into the module after the last checkpoint was taken.

It copies the average in ``on_train_end``, behind all callbacks that stand before it, and without batch norms into no
checkpoint of its own. The last checkpoint therefore holds the average as the weights, which evaluations, exports and
other runs take, and beside them those of the last step, from which a longer run goes on.
"""

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor

from lit_ft.core.lightning import either

KEY = "current_model_state"  # as Lightning's WeightAveraging names it


def give_network(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let an averaging average: it copies the module in ``setup``, before ``configure_model`` has built its network.

    For hooks behind ``configure_model``, before the averaging is restored or begins.
    """
    names = {name for name, _ in module.named_parameters()}
    averages = [one for one in trainer.callbacks if isinstance(one, either(StochasticWeightAveraging))]  # type: ignore
    for callback in averages:
        copied = callback._average_model
        if copied is not None and not names <= {name for name, _ in copied.named_parameters()}:
            callback._average_model = copy.deepcopy(module)


def average(trainer: pl.Trainer) -> dict[str, Tensor] | None:
    """The weights that an averaging is about to put into the module; None without one. For ``on_train_end``.

    Example:
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> class Told(pl.Callback):
        ...     def on_train_end(self, trainer, module):
        ...         print(len(average(trainer)))
        >>> plain = lambda: ForeignModule(norm=False)
        >>> swa = StochasticWeightAveraging(0.01, swa_epoch_start=1)
        >>> _ = fit_foreign([Told(), swa], make_module=plain, max_epochs=2)
        4
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    averaging = next((one for one in callbacks if isinstance(one, either(StochasticWeightAveraging))), None)
    if averaging is None:
        return None
    begun = averaging.n_averaged is not None or averaging._init_n_averaged
    ends = averaging._max_epochs == -1 or trainer.current_epoch - 1 == averaging.swa_end
    if not begun or not ends or averaging._average_model is None:
        return {}  # with batch norms it was there for an epoch by now
    return {name: one.detach() for name, one in averaging._average_model.named_parameters()}


def write_average(checkpoint: dict[str, Any], module: pl.LightningModule, weights: dict[str, Tensor]) -> None:
    """Put an average into a checkpoint as its weights, and those of now beside it."""
    own = {name: one for name, one in module.named_parameters() if name in weights and one.requires_grad}
    checkpoint[KEY] = {name: one.detach().clone() for name, one in own.items()}
    checkpoint["state_dict"] |= {name: weights[name].to(one.device, copy=True) for name, one in own.items()}


@torch.no_grad()
def go_on_from(current: Mapping[str, Tensor], module: pl.LightningModule) -> None:
    """Restore the weights of the last step; for a training that goes on behind a checkpoint that holds an average."""
    own = dict(module.named_parameters())
    for name, value in current.items():
        if name in own:
            own[name].copy_(value)
