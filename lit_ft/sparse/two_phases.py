"""The skeleton of methods that fine-tune, go back to the start, and then do something with what was learned."""

from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_ft.core.callback import FitCallback, Need
from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex


class TwoPhases(FitCallback):
    """Trains as usual for some steps, then goes back to the first weights and begins a second phase.

    At the turn the optimizer forgets its state; the learning rate goes on along its schedule. A subclass implements
    ``turn`` (once, when the second phase begins), ``resume`` (at the start of a run that stopped in the second phase),
    ``memory`` and ``remember``.

    Memory: a copy of the weights; it is in every checkpoint, too, because a resumed run must know where it began.
    Refuses callbacks that average, prune or unfreeze weights: what is promised of the result would not hold.

    Args:
        first_steps: Optimizer steps of the first phase, at least 1; or a share of all steps, in (0, 1).
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
        """Begin the second phase: the parameters hold what the first phase learned, ``self.base`` the start."""
        raise NotImplementedError(f"{type(self).__name__} defines turn(trainer, index)")

    def resume(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Go on with the second phase after a resume."""
        raise NotImplementedError(f"{type(self).__name__} defines resume(trainer, index)")

    def memory(self) -> dict[str, Any]:
        """What ``resume`` needs, as plain data and tensors."""
        return {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the start."""
        steps = self.first_steps
        self._turn_at = int(steps if steps >= 1 else max(1, round(steps * trainer.estimated_stepping_batches)))
        index = ParameterIndex(pl_module)
        if not self.base:
            self.base = {name: p.detach().clone() for name, p in index.parameters.items() if p.requires_grad}
        self.base = {name: value.to(index[name].parameter.device) for name, value in self.base.items()}
        if self.second:
            self.resume(trainer, index)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Turn where it is time."""
        if self.second or trainer.global_step < self._turn_at:
            return
        self.second = True
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        self.turn(trainer, ParameterIndex(pl_module))

    @torch.no_grad()
    def rewind(self, index: ParameterIndex) -> None:
        """Put the first weights back, by copying."""
        for name, value in self.base.items():
            index[name].parameter.copy_(value)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so when the run never came to its second phase."""
        if not self.second and not trainer.interrupted:
            steps = f"its {trainer.global_step} steps are not more than first_steps = {self._turn_at}"
            rank_zero_warn(f"{type(self).__name__}: the run ended in its first phase; {steps}")

    def state_dict(self) -> dict[str, Any]:
        """The start, and what the second phase needs."""
        return {**super().state_dict(), "memory": self.memory() if self.second else {}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.remember(state_dict["memory"])

    def remember(self, memory: dict[str, Any]) -> None:
        """Take back what ``memory`` gave."""
