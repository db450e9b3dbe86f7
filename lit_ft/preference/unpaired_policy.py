"""What methods share that learn from single answers, each wanted or not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.core.schedules import Schedule
from lit_ft.preference.policy import Policy
from lit_ft.preference.reference import Reference, sequence_log_probs

ROWS = ("input_ids", "attention_mask", "weights")  # what has a row for each answer and each borrowed one


class UnpairedPolicy(Policy):
    """A policy that reads ``UnpairedPreferences``: answers, and behind them as many that are borrowed.

    Args:
        network: A causal language model.
        beta: Strength of the tie to the reference, above 0.
        reference: None takes ``AdapterOff`` where there is an adapter, else ``FrozenCopy``.
        optimizer: Makes the optimizer from parameters.
        schedule: How the learning rate moves.
    """

    def __init__(
        self,
        network: Network,
        beta: float,
        reference: Reference | None,
        optimizer: OptimizerCallable,
        schedule: Schedule | None,
    ) -> None:
        super().__init__(network, reference, optimizer, schedule)
        if not beta > 0:
            raise ConfigError("beta", beta, "a number above 0")
        self.beta = beta

    def sum_and_number(self, values: Tensor) -> Tensor:
        """Sum and number of values, shape (2,); in training over all ranks, which take the same number of batches."""
        total = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
        return self._sum_over_ranks(total) if self._trainer is not None and self._trainer.training else total

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float:
        """Number of answers."""
        return float(len(batch["desirable"]))

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Log-probabilities of the answers, shape (answers,)."""
        assert self.network is not None
        return sequence_log_probs(self.network, halves(batch)[0])


def halves(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The answers of a batch, and the borrowed ones."""
    n = len(batch["desirable"])
    first, second = ({name: batch[name][part] for name in ROWS} for part in (slice(n), slice(n, None)))
    return first, second


def reward_scalars(rewards: Tensor, desirable: Tensor, threshold: Tensor) -> dict[str, Tensor]:
    """What is logged of rewards: their mean, those of unwanted answers negated, and the share on the right side."""
    rewards = rewards.detach()
    return {
        "rewards/signed": torch.where(desirable, rewards, -rewards).mean(),
        "rewards/accuracy": ((rewards > threshold) == desirable).float().mean(),
    }
