"""What methods share that learn from single answers, each wanted or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.checks import PositiveFloat, checked
from lit_ft.core.network import Network
from lit_ft.preference.policy import Policy
from lit_ft.preference.reference import sequence_log_probs

ROWS = ("input_ids", "attention_mask", "weights")  # what has a row for each answer and each borrowed one


class UnpairedPolicy(Policy):
    """A policy that reads ``UnpairedPreferences``: answers, and behind them as many that are borrowed.

    Args:
        network: A causal language model.
        beta: Strength of the tie to the reference, above 0. Paper of KTO, and TRL's default: 0.1.
        **kwargs: As in :class:`Policy`.
    """

    def __init__(self, network: Network, beta: PositiveFloat = 0.1, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
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
        return sequence_log_probs(self.network, halves(batch)[0])


def halves(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The answers of a batch, and the borrowed ones."""
    n = len(batch["desirable"])
    first, second = ({name: batch[name][part] for name in ROWS} for part in (slice(n), slice(n, None)))
    return first, second


def judged(logits: Tensor, desirable: Tensor) -> tuple[Tensor, Tensor]:
    """What metrics read of answers: the probability that each is wanted, and whether it is (1 or 0)."""
    return logits.detach().sigmoid(), desirable.long()


def reward_scalars(rewards: Tensor, desirable: Tensor, threshold: Tensor) -> dict[str, Tensor]:
    """What is logged of rewards: their mean, those of unwanted answers negated, and the share on the right side."""
    rewards = rewards.detach()
    return {
        "rewards/signed": torch.where(desirable, rewards, -rewards).mean(),
        "rewards/accuracy": ((rewards > threshold) == desirable).float().mean(),
    }
