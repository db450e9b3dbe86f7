"""Statistics of the rewards of pairs, for logging."""

import torch
from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of values; 0 if no weight is above 0.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
        tensor(2.)
    """
    weights = weights.float()
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def judged(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets for metrics: both rewards as logits, shape (pairs, 2), and the class of the chosen, 0.

    Example:
        >>> judged(chosen=torch.tensor([1.0, 2.0]), rejected=torch.tensor([0.0, 3.0]))
        (tensor([[1., 0.],
                [2., 3.]]), tensor([0, 0]))
    """
    return torch.stack([chosen, rejected], 1).detach(), torch.zeros(len(chosen), dtype=torch.long, device=chosen.device)


def reward_scalars(chosen: Tensor, rejected: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Means over pairs of both rewards and of their margin, and the share with the higher reward for the chosen answer.

    Args:
        chosen: Rewards of chosen answers, shape (pairs,).
        rejected: Rewards of rejected answers, shape (pairs,).
        weights: Weights of the pairs.

    Example:
        >>> values = reward_scalars(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]), weights=torch.ones(2))
        >>> {name: value.item() for name, value in values.items()}
        {'rewards/chosen': 1.5, 'rewards/rejected': 1.5, 'rewards/margin': 0.0, 'rewards/accuracy': 0.5}
    """
    chosen, rejected = chosen.detach(), rejected.detach()
    values = {
        "chosen": chosen,
        "rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).float(),
    }
    return {f"rewards/{name}": weighted_mean(value, weights) for name, value in values.items()}
