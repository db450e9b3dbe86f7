"""The CHES score: how similar the hidden states of two answers are."""

import torch
from torch import Tensor
from torchmetrics import Metric


def ches(hidden: Tensor, weights: Tensor, length_normalize: bool = True) -> Tensor:
    r"""Centred hidden embedding similarity of pairs; high scores predict that training lowers the chosen answer.

    .. math:: \Big\langle\sum_k h(x,y^+_{<k}),\sum_{k'}h(x,y^-_{<k'})\Big\rangle-\Big\|\sum_kh(x,y^+_{<k})\Big\|^2

    The sums run over the positions that predict a token of the answer: from the last token of the prompt to the last
    but one of the answer. With ``length_normalize`` the first term is divided by :math:`|y^+||y^-|`, the second by
    :math:`|y^+|^2`.

    Args:
        hidden: Inputs of the output head (after the last norm), shape (2 pairs, tokens, width): chosen answers, then
            rejected ones.
        weights: Not 0 on the tokens of the answer, shape (2 pairs, tokens); padding may be on either side.
        length_normalize: Whether to take means instead of sums; in the paper, True for filtering.

    Returns:
        Shape (pairs,), float32.

    Source: N. Razin et al., Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization, 2024,
    arXiv:2410.08847. Deviation: indexed by mask; the authors' code drops the last column, which is padding for all
    answers but the longest.

    Example:
        >>> hidden = torch.tensor([[[1.0, 0.0], [9.0, 9.0]], [[0.5, 2.0], [9.0, 9.0]]])
        >>> ches(hidden, torch.tensor([[0, 1], [0, 1]]))  # 0.5 - 1: the last token predicts nothing
        tensor([-0.5000])
    """
    predicts = (weights[:, 1:] != 0).float()
    sums = torch.einsum("bt,btw->bw", predicts, hidden[:, :-1].float())
    if length_normalize:
        sums = sums / predicts.sum(1, keepdim=True).clamp(min=1)
    chosen, rejected = sums.chunk(2)
    return (chosen * rejected).sum(1) - chosen.square().sum(1)


class ChesScore(Metric):
    """Mean CHES score over pairs; see :func:`ches`.

    Args:
        length_normalize: Whether to take means over tokens instead of sums.

    See also: :func:`ches`, and :class:`~lit_ft.callbacks.LikelihoodDisplacement`, which measures what the score
    predicts.

    Example:
        >>> metric = ChesScore()
        >>> hidden = torch.tensor([[[1.0, 0.0], [9.0, 9.0]], [[0.5, 2.0], [9.0, 9.0]]])
        >>> metric.update(hidden, torch.tensor([[0, 1], [0, 1]]))
        >>> metric.compute()
        tensor(-0.5000)
    """

    total: Tensor
    count: Tensor

    def __init__(self, length_normalize: bool = True) -> None:
        super().__init__()
        self.length_normalize = length_normalize
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, hidden: Tensor, weights: Tensor) -> None:
        """Add pairs: hidden states and weights of both sides."""
        scores = ches(hidden, weights, self.length_normalize)
        self.total += scores.double().sum()
        self.count += len(scores)

    def compute(self) -> Tensor:
        """The mean."""
        return (self.total / self.count).float()
