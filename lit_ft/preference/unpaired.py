"""Losses over single answers that are desirable or not, as functions of their log-ratios."""

import torch
from torch import Tensor
from torch.nn import functional as F


def kto(
    ratios: Tensor, desirable: Tensor, divergence: Tensor, beta: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    r"""Kahneman-Tversky loss of single answers.

    .. math:: \lambda_D(1-\sigma(\beta(r-z)))\ \text{where desirable, else}\ \lambda_U(1-\sigma(\beta(z-r)))

    Args:
        ratios: :math:`r=\log\pi(y)-\log\pi_0(y)`, shape (answers,).
        desirable: Whether each answer is desirable, shape (answers,), bool.
        divergence: :math:`z\ge0`, an estimate of KL(policy, reference) from answers to other prompts; constant.
        beta: Above 0. Paper: 0.1.
        weights: :math:`(\lambda_D,\lambda_U)`. Paper: their product with the counts in a ratio of 1 to 4/3.

    Source: K. Ethayarajh et al., KTO, 2024, arXiv:2402.01306, eq. 7 and 8.

    See also: :func:`bco`.

    Example:
        >>> kto(torch.zeros(2), torch.tensor([True, False]), torch.tensor(0.0), beta=0.1, weights=(1.0, 2.0))
        tensor([0.5000, 1.0000])
    """
    signed = torch.where(desirable, ratios - divergence, divergence - ratios)
    wanted, unwanted = (torch.as_tensor(w, dtype=ratios.dtype, device=ratios.device) for w in weights)
    scale = torch.where(desirable, wanted, unwanted)
    return scale * (1 - torch.sigmoid(beta * signed))


def bco(rewards: Tensor, desirable: Tensor, shift: Tensor) -> Tensor:
    r"""Binary classifier of single answers: :math:`-\log\sigma(\pm(r-\delta))`, with + where desirable.

    Args:
        rewards: :math:`r=\beta\,(\log\pi(y)-\log\pi_0(y))`, shape (answers,).
        desirable: Whether each answer is desirable, shape (answers,), bool.
        shift: :math:`\delta`, the mean reward of answers; constant.

    Source: S. Jung et al., Binary Classifier Optimization for LLM Alignment, 2024, arXiv:2404.04656.

    See also: :func:`kto`.

    Example:
        >>> bco(torch.tensor([0.5, 20.0]), torch.tensor([True, True]), shift=torch.tensor(0.5))  # log 2, and nearly 0
        tensor([0.6931, 0.0000])
    """
    shifted = rewards - shift
    return -F.logsigmoid(torch.where(desirable, shifted, -shifted))
