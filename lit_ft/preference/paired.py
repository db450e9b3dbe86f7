"""Losses over pairs of answers, as functions of their log-probabilities."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import NonNegativeFloat, PositiveFloat, Range, checked
from lit_ft.tokens.losses import log1mexp

FlippedShare = Annotated[float, Range(low=0, below=0.5)]  # at 0.5 labels carry no information


@dataclass
class Pairs:
    r"""Log-probabilities of pairs; all tensors have shape (pairs,).

    Args:
        chosen: :math:`\log\pi(y^+|x)`, summed over the tokens of the answer, each times its weight.
        rejected: :math:`\log\pi(y^-|x)`.
        chosen_tokens: Summed weights of the tokens of :math:`y^+`; their number where all weigh 1.
        rejected_tokens: The same for :math:`y^-`.
        reference_chosen: :math:`\log\pi_0(y^+|x)` under the reference; None for losses without a reference.
        reference_rejected: :math:`\log\pi_0(y^-|x)`.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> pairs.ratios(), pairs.margin()
        ((tensor([1.]), tensor([-3.])), tensor([4.]))
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    def ratios(self, per_token: bool = False) -> tuple[Tensor, Tensor]:
        r""":math:`r^\pm=\log\pi(y^\pm)-\log\pi_0(y^\pm)`, with ``per_token`` divided by the tokens of the answer."""
        first = self.chosen if self.reference_chosen is None else self.chosen - self.reference_chosen
        second = self.rejected if self.reference_rejected is None else self.rejected - self.reference_rejected
        if per_token:
            return self.per_token(first, second)
        return first, second

    def per_token(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Values of both answers divided by their tokens; an answer without any keeps 0."""
        return first / self.chosen_tokens.clamp(min=1e-6), second / self.rejected_tokens.clamp(min=1e-6)

    def margin(self, per_token: bool = False) -> Tensor:
        """:math:`h=r^+-r^-`."""
        first, second = self.ratios(per_token)
        return first - second


class PreferenceLoss(ABC):
    """A loss for each pair.

    See also: :class:`LogSigmoidPreference` (DPO), :class:`SimPO` and :class:`ORPO`, which need no reference.

    Example:
        >>> IPO.needs_reference, SimPO.needs_reference
        (True, False)
    """

    needs_reference: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""

    @abstractmethod
    def rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The implicit rewards of chosen and rejected answers, for logging."""


class _Scaled(PreferenceLoss):
    """A loss whose implicit reward is beta times the log-ratio."""

    def __init__(self, beta: PositiveFloat = 0.1) -> None:
        super().__init__()
        checked(locals())
        self.beta = beta

    def rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Beta times the log-ratios."""
        first, second = pairs.ratios()
        return self.beta * first, self.beta * second


class LogSigmoidPreference(_Scaled):
    r"""DPO: :math:`-\log\sigma(\beta h)`; with smoothing :math:`\epsilon` the conservative cDPO.

    .. math:: -(1-\epsilon)\log\sigma(\beta h)-\epsilon\log\sigma(-\beta h)

    Args:
        beta: Strength of the tie to the reference, above 0. Paper: 0.1 (0.5 for summaries).
        label_smoothing: Assumed share of flipped labels, in [0, 0.5).
        length_normalize: Divide each log-ratio by the tokens of its answer.

    Source: R. Rafailov et al., Direct Preference Optimization, 2023, arXiv:2305.18290; E. Mitchell, A note on DPO with
    noisy preferences, 2023. Equals ``sigmoid`` and ``sigmoid_norm`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> LogSigmoidPreference(beta=0.5)(pairs)  # -log sigmoid(2)
        tensor([0.1269])
    """

    def __init__(
        self, beta: PositiveFloat = 0.1, label_smoothing: FlippedShare = 0.0, length_normalize: bool = False
    ) -> None:
        super().__init__(beta)
        checked(locals())
        self.label_smoothing, self.length_normalize = label_smoothing, length_normalize

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        scaled = self.beta * pairs.margin(self.length_normalize)
        if self.label_smoothing == 0:
            return -F.logsigmoid(scaled)
        return -(1 - self.label_smoothing) * F.logsigmoid(scaled) - self.label_smoothing * F.logsigmoid(-scaled)


class RobustPreference(_Scaled):
    r"""An unbiased loss when a known share of the labels is flipped.

    .. math:: \frac{-(1-\epsilon)\log\sigma(\beta h)+\epsilon\log\sigma(-\beta h)}{1-2\epsilon}

    Its mean over labels flipped with probability :math:`\epsilon` is the DPO loss on the true labels.

    Args:
        beta: As in DPO.
        label_smoothing: Share of flipped labels, in [0, 0.5). Paper: 0.1.

    Source: S. Ray Chowdhury et al., Provably Robust DPO, 2024, arXiv:2403.00409. Equals ``robust`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> RobustPreference(beta=0.5, label_smoothing=0.1)(pairs)
        tensor([-0.1231])
    """

    def __init__(self, beta: PositiveFloat = 0.1, label_smoothing: FlippedShare = 0.1) -> None:
        super().__init__(beta)
        checked(locals())
        self.label_smoothing = label_smoothing

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        scaled, share = self.beta * pairs.margin(), self.label_smoothing
        return (-(1 - share) * F.logsigmoid(scaled) + share * F.logsigmoid(-scaled)) / (1 - 2 * share)


class IPO(_Scaled):
    r"""Identity preference optimisation: :math:`(h-\frac1{2\beta})^2`; its optimum is finite for certain labels.

    Args:
        beta: The paper's tau, above 0; the target of the margin is 1 / (2 beta). Paper: 0.1 to 1.
        length_normalize: Divide each log-ratio by the tokens of its answer, as TRL does and the authors confirmed.
            False is the equation as printed, on sums.

    Source: M. G. Azar et al., A General Theoretical Paradigm to Understand Learning from Human Preferences, 2023,
    arXiv:2310.12036, eq. 17. With ``length_normalize`` it equals ``ipo`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> IPO(beta=0.5, length_normalize=False)(pairs)  # (4 - 1) ** 2
        tensor([9.])
    """

    def __init__(self, beta: PositiveFloat = 0.1, length_normalize: bool = True) -> None:
        super().__init__(beta)
        self.length_normalize = length_normalize

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        return (pairs.margin(self.length_normalize) - 1 / (2 * self.beta)) ** 2


class HingePreference(_Scaled):
    r"""Hinge: :math:`\max(0, 1-\beta h)`, no gradient beyond the margin.

    Args:
        beta: As in DPO.

    Source: T. Liu et al., Statistical Rejection Sampling Improves Preference Optimization, 2023, arXiv:2309.06657;
    Y. Zhao et al., SLiC-HF, 2023, arXiv:2305.10425. Equals ``hinge`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> HingePreference(beta=0.1)(pairs)  # 1 - 0.4
        tensor([0.6000])
    """

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        return torch.relu(1 - self.beta * pairs.margin())


class SimPO(PreferenceLoss):
    r"""No reference, mean log-probability as reward, and a margin.

    .. math:: -\log\sigma\Big(\beta\big(\tfrac{\log\pi(y^+)}{|y^+|}-\tfrac{\log\pi(y^-)}{|y^-|}\big)-\gamma\Big)

    Args:
        beta: Scale of the reward, above 0. Paper: 2 to 2.5 (10 in a later setting).
        gamma: Margin, 0 or more. Paper: 0.3 to 1.6, half of beta as a start.

    Source: Y. Meng et al., SimPO, 2024, arXiv:2405.14734. Equals ``simpo`` of TRL 1.16.

    Example:
        >>> SimPO(beta=2.0, gamma=1.0)(Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0]])))  # -log sigmoid(-2 + 4 - 1)
        tensor([0.3133])
    """

    needs_reference: ClassVar[bool] = False

    def __init__(self, beta: PositiveFloat = 2.0, gamma: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        checked(locals())
        self.beta, self.gamma = beta, gamma

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = self.rewards(pairs)
        return -F.logsigmoid(first - second - self.gamma)

    def rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Beta times the mean log-probabilities."""
        return pairs.per_token(self.beta * pairs.chosen, self.beta * pairs.rejected)


class ORPO(PreferenceLoss):
    r"""Supervised loss on the chosen answer plus the log odds ratio of the pair; no reference.

    .. math:: -\log p^+-\lambda\log\sigma\Big(\log\frac{p^+}{1-p^+}-\log\frac{p^-}{1-p^-}\Big),\quad
              p=\pi(y|x)^{1/|y|}

    Args:
        weight: The paper's lambda, above 0. Paper: 0.1 to 0.2.

    Source: J. Hong et al., ORPO, 2024, arXiv:2403.07691. The second term equals TRL 1.16's; the first is a mean over
    pairs of means over tokens (TRL: one mean over the tokens of the batch).

    Example:
        >>> ORPO(weight=0.1)(Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0]])))
        tensor([1.0238])
    """

    needs_reference: ClassVar[bool] = False

    def __init__(self, weight: PositiveFloat = 0.1) -> None:
        super().__init__()
        checked(locals())
        self.weight = weight

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = self.rewards(pairs)
        odds = (first - second) - (log1mexp(first) - log1mexp(second))
        return -first - self.weight * F.logsigmoid(odds)

    def rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Mean log-probabilities."""
        return pairs.per_token(pairs.chosen, pairs.rejected)


class BCO(_Scaled):
    r"""Binary classifier over answers, on pairs: :math:`-\log\sigma(\beta r^+)-\log\sigma(-\beta r^-)`.

    Args:
        beta: As in DPO.

    Source: S. Jung et al., Binary Classifier Optimization for LLM Alignment, 2024, arXiv:2404.04656, without its
    running mean of rewards (which ``UnpairedBCO`` has), as in ``bco_pair`` of TRL 1.16, which this equals.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> BCO(beta=1.0)(pairs)  # -log sigmoid(1) - log sigmoid(3)
        tensor([0.3618])
    """

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = self.rewards(pairs)
        return -F.logsigmoid(first) - F.logsigmoid(-second)


class NCA(_Scaled):
    r"""Noise contrastive alignment, on pairs; keeps the likelihood of the chosen answer from falling.

    .. math:: -\log\sigma(\beta r^+)-\tfrac12\log\sigma(-\beta r^+)-\tfrac12\log\sigma(-\beta r^-)

    Args:
        beta: As in DPO. Paper: 0.01.

    Source: H. Chen et al., Noise Contrastive Alignment of Language Models with Explicit Rewards, 2024,
    arXiv:2402.05369. Equals ``nca_pair`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> NCA(beta=1.0)(pairs)
        tensor([0.9942])
    """

    def __init__(self, beta: PositiveFloat = 0.01) -> None:
        super().__init__(beta)

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = self.rewards(pairs)
        return -F.logsigmoid(first) - 0.5 * F.logsigmoid(-first) - 0.5 * F.logsigmoid(-second)


class APO(_Scaled):
    r"""Anchored preference optimisation: for chosen answers that are better or worse than those of the model.

    ``zero``: :math:`1-\sigma(\beta r^+)+\sigma(\beta r^-)`, chosen up, rejected down.
    ``down``: :math:`\sigma(\beta r^+)+1-\sigma(\beta(r^+-r^-))`, both down, rejected more.

    Args:
        beta: As in DPO.
        anchor: ``zero`` or ``down``.

    Source: K. D'Oosterlinck et al., Anchored Preference Optimization, 2024, arXiv:2408.06266, eq. 7 and 8. Equals
    ``apo_zero`` and ``apo_down`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> APO(beta=1.0)(pairs)  # 1 - sigmoid(1) + sigmoid(-3)
        tensor([0.3164])
    """

    def __init__(self, beta: PositiveFloat = 0.1, anchor: Literal["zero", "down"] = "zero") -> None:
        super().__init__(beta)
        checked(locals())
        self.anchor = anchor

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = self.rewards(pairs)
        if self.anchor == "zero":
            return 1 - first.sigmoid() + second.sigmoid()
        return first.sigmoid() + 1 - (first - second).sigmoid()


class SPPO(_Scaled):
    r"""Self-play preference optimisation with hard labels: :math:`(r^+-\frac1{2\beta})^2+(r^-+\frac1{2\beta})^2`.

    Args:
        beta: 1 / eta of the paper, above 0. Paper: 0.001.

    Source: Y. Wu et al., Self-Play Preference Optimization, 2024, arXiv:2405.00675, eq. 4.7 with P of 1 and 0. Equals
    ``sppo_hard`` of TRL 1.16.

    Example:
        >>> pairs = Pairs(*torch.tensor([[-2.0], [-8.0], [2.0], [4.0], [-3.0], [-5.0]]))  # log-ratios 1 and -3
        >>> SPPO(beta=0.5)(pairs)  # (1 - 1) ** 2 + (-3 + 1) ** 2
        tensor([4.])
    """

    def __init__(self, beta: PositiveFloat = 0.001) -> None:
        super().__init__(beta)

    def __call__(self, pairs: Pairs) -> Tensor:
        """Losses of shape (pairs,)."""
        first, second = pairs.ratios()
        return (first - 0.5 / self.beta) ** 2 + (second + 0.5 / self.beta) ** 2


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    r"""Reward model: :math:`-\log\sigma(r^+-r^--m)`.

    Args:
        chosen: Rewards of shape (pairs,).
        rejected: Rewards of shape (pairs,).
        margin: m, by how much the chosen answer should win.

    Source: R. A. Bradley, M. E. Terry, 1952; margin as in H. Touvron et al., Llama 2, 2023, arXiv:2307.09288.

    Example:
        >>> bradley_terry(torch.tensor([3.0]), torch.tensor([1.0]), margin=2.0)  # log 2
        tensor([0.6931])
    """
    return -F.logsigmoid(chosen - rejected - margin)
