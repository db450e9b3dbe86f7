"""The base of methods that fine-tune, rewind to the start, and use the fine-tuned weights in a second phase."""

from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_ft.core.callback import FitCallback, Need
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import share_of_steps
from lit_ft.core.parameters import ParameterIndex


class TwoPhases(FitCallback):
    """Trains as usual for some steps, then returns to the initial weights and begins a second phase.

    At the turn the state of the optimizer is cleared; the learning rate follows its schedule. A subclass implements
    ``turn`` (once, when the second phase begins), ``resume`` (at the start of a run that stopped in the second phase),
    ``memory`` and ``remember``.

    Memory: a copy of the weights, also in every checkpoint, because a resumed run needs its initial weights. Refuses
    callbacks that average, prune or unfreeze weights: the result would not be what the subclass guarantees.

    Args:
        first_steps: Optimizer steps of the first phase, at least 1; or a share of all steps, in (0, 1).

    Example:
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> class Rewound(TwoPhases):
        ...     def turn(self, trainer, index):
        ...         self.rewind(index)
        ...         trainer.should_stop = True
        ...     def on_train_batch_end(self, trainer, *args):
        ...         print(trainer.global_step, self.second)
        >>> _ = fit_foreign([Rewound(first_steps=2)], max_steps=3)
        1 False
        2 False
        3 True
    """

    needs: ClassVar[tuple[Need, ...]] = ("one device or ddp", "no other weights")
    remembers = ("second", "base")

    def __init__(self, first_steps: int | float) -> None:
        super().__init__()
        if not first_steps > 0 or (first_steps > 1 and first_steps != int(first_steps)):
            raise ConfigError("first_steps", first_steps, "a whole number of at least 1, or a share in (0, 1)")
        self.first_steps = first_steps
        self._turn_at = 0
        self.second = False
        self.base: dict[str, Tensor] = {}

    def turn(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Begin the second phase: the parameters have their tuned values, ``self.base`` the initial ones."""
        raise NotImplementedError(f"{type(self).__name__} defines turn(trainer, index)")

    def resume(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Continue the second phase after a resume."""
        raise NotImplementedError(f"{type(self).__name__} defines resume(trainer, index)")

    def memory(self) -> dict[str, Any]:
        """The state that ``resume`` needs, as plain data and tensors."""
        return {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the initial weights."""
        steps = self.first_steps
        self._turn_at = int(steps if steps >= 1 else max(1, round(share_of_steps(trainer, "first_steps", steps))))
        index = ParameterIndex(pl_module)
        if not self.base:
            self.base = {name: p.detach().clone() for name, p in index.parameters.items() if p.requires_grad}
        self.base = {name: value.to(index[name].parameter.device) for name, value in self.base.items()}
        if self.second:
            self.resume(trainer, index)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the second phase if it is due."""
        if self.second or trainer.global_step < self._turn_at:
            return
        self.second = True
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        self.turn(trainer, ParameterIndex(pl_module))

    @torch.no_grad()
    def rewind(self, index: ParameterIndex) -> None:
        """Restore the initial weights, by copying."""
        for name, value in self.base.items():
            index[name].parameter.copy_(value)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if the run ended before its second phase."""
        if not self.second and not trainer.interrupted:
            steps = f"its {trainer.global_step} steps are not more than first_steps = {self._turn_at}"
            rank_zero_warn(f"{type(self).__name__}: the run ended in its first phase; {steps}")

    def state_dict(self) -> dict[str, Any]:
        """The phase, the initial weights, and the state of the second phase."""
        return {**super().state_dict(), "memory": self.memory() if self.second else {}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.remember(state_dict["memory"])

    def remember(self, memory: dict[str, Any]) -> None:
        """Restore the result of ``memory``."""
