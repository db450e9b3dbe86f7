"""The base of methods that learn from single answers, each desirable or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.checks import PositiveFloat, checked
from lit_ft.core.network import Network
from lit_ft.preference.policy import Policy
from lit_ft.preference.reference import sequence_log_probs

ROWS = ("input_ids", "attention_mask", "weights")  # these have a row for each answer and each borrowed answer


class UnpairedPolicy(Policy):
    """A policy that reads ``UnpairedPreferences``: answers, then as many answers borrowed from other prompts.

    Args:
        network: A causal language model.
        beta: Strength of the tie to the reference, above 0. Paper of KTO, and TRL's default: 0.1.
        **kwargs: As in :class:`Policy`.

    See also: :class:`~lit_ft.methods.KTO`, :class:`~lit_ft.methods.UnpairedBCO`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = UnpairedPolicy({"config": config}, beta=0.0)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: UnpairedPolicy.beta: given 0.0; allowed: a finite number, above 0
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

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Tensor) -> list[dict[str, Any]]:
        """The log-probability of each answer, and whether it is desirable."""
        pairs = zip(predictions.tolist(), batch["desirable"].tolist(), strict=True)
        return [{"log_probability": value, "desirable": desirable} for value, desirable in pairs]


def halves(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The rows of a batch with their own answers, and the rows with borrowed answers.

    Example:
        >>> rows = torch.tensor([[1], [2], [3], [4]])
        >>> batch = {"desirable": torch.tensor([True, False]), **dict.fromkeys(ROWS, rows)}
        >>> own, borrowed = halves(batch)
        >>> own["input_ids"].tolist(), borrowed["input_ids"].tolist()
        ([[1], [2]], [[3], [4]])
    """
    n = len(batch["desirable"])
    first, second = ({name: batch[name][part] for name in ROWS} for part in (slice(n), slice(n, None)))
    return first, second


def judged(logits: Tensor, desirable: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets for metrics: the probability that an answer is desirable, and whether it is (1 or 0).

    Example:
        >>> judged(torch.tensor([0.0, 9.0]), torch.tensor([False, True]))
        (tensor([0.5000, 0.9999]), tensor([0, 1]))
    """
    return logits.detach().sigmoid(), desirable.long()


def reward_scalars(rewards: Tensor, desirable: Tensor, threshold: Tensor) -> dict[str, Tensor]:
    """The mean reward, undesirable answers negated, and the share of answers on the right side of a threshold.

    Example:
        >>> reward_scalars(torch.tensor([1.0, 3.0]), torch.tensor([False, True]), threshold=torch.tensor(0.0))
        {'rewards/signed': tensor(1.), 'rewards/accuracy': tensor(0.5000)}
    """
    rewards = rewards.detach()
    return {
        "rewards/signed": torch.where(desirable, rewards, -rewards).mean(),
        "rewards/accuracy": ((rewards > threshold) == desirable).float().mean(),
    }
