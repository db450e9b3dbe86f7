"""Cross-entropy over tokens with weights: how they are averaged, and what each contributes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import NonNegativeFloat, Range, checked
from lit_ft.core.errors import ConfigError

Reduction = Literal["token", "sequence", "task", "task_sequence"]
Smoothing = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True)
class TokenLoss:
    r"""The contribution of one token with probability p to the loss, in float32.

    .. math:: c\,(1-p)^\gamma\,\big[-(1-\epsilon)\log p-\tfrac{\epsilon}{V}\textstyle\sum_v\log p_v\big]

    Args:
        label_smoothing: The share epsilon in [0, 1) that is spread over the vocabulary.
        focal: The exponent gamma, 0 or more: tokens that are known already count less (T. Lin et al., Focal loss, 2017,
            arXiv:1708.02002).
        unlikelihood: A token of negative weight contributes :math:`-|c|\log(1-p)`, which is bounded below, and not
            :math:`-|c|(-\log p)`, which is not (S. Welleck et al., 2019, arXiv:1908.04319).

    See also: :func:`shares`, which gives the coefficients.

    Example:
        >>> log_probs, coefficients = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, -1.0])
        >>> TokenLoss()(log_probs, log_probs, coefficients)
        tensor([ 0.6931, -0.6931])
        >>> TokenLoss(focal=2.0)(log_probs, log_probs, coefficients)  # a quarter of it
        tensor([ 0.1733, -0.1733])
    """

    label_smoothing: Smoothing = 0.0
    focal: NonNegativeFloat = 0.0
    unlikelihood: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        checked({"self": self, **vars(self)})

    @property
    def is_plain(self) -> bool:
        """Whether a token contributes ``-c log p`` and nothing else."""
        return self == TokenLoss()

    def __call__(self, log_probs: Tensor, mean_log_probs: Tensor, coefficients: Tensor) -> Tensor:
        """Contributions of shape (tokens,).

        Args:
            log_probs: Log-probabilities of the tokens, shape (tokens,).
            mean_log_probs: Mean over the vocabulary at the same positions; used for label smoothing.
            coefficients: c, shape (tokens,).
        """
        value = -log_probs
        if self.label_smoothing:
            value = (1 - self.label_smoothing) * value - self.label_smoothing * mean_log_probs
        if self.focal:
            value = (1 - log_probs.exp()).clamp(min=1e-12) ** self.focal * value
        if self.unlikelihood:
            value = torch.where(coefficients < 0, log1mexp(log_probs), value)
        return coefficients * value


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x <= 0 without cancellation; x = 0 counts as the largest float below it.

    Example:
        >>> log1mexp(torch.tensor([0.25]).log()).exp()
        tensor([0.7500])
    """
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -math.log(2)
    # each branch gets a harmless argument where the other one is taken, or its gradient would be nan
    first = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    second = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, first, second)


def shares(
    weights: Tensor,
    reduction: Reduction = "token",
    documents: Tensor | None = None,
    tasks: Tensor | None = None,
    task_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Coefficients c of the mean :math:`L=\sum_t c_t\ell_t`, and its denominator.

    ======================= ==================================================== ====================
    reduction               mean                                                 denominator
    ======================= ==================================================== ====================
    ``token``               over all tokens: :math:`w_t/\sum|w|`                 :math:`\sum|w|`
    ``sequence``            over examples, of their token means                  examples
    ``task``                over tasks, of their token means                     weight of the tasks
    ``task_sequence``       over tasks, of the means over their examples         weight of the tasks
    ======================= ==================================================== ====================

    Examples and tasks without a target do not count. Negative weights count by their size in the denominator.

    Args:
        weights: Weight of each token as a target, shape (rows, tokens); the first of a row is not a target and counts
            0.
        reduction: One of the four.
        documents: Number of the example of each token if several are packed into a row, shape (rows, tokens); otherwise
            a row is an example.
        tasks: Number of the task of each row, shape (rows,), or of each token, shape (rows, tokens).
        task_weights: Weight of each task, shape (tasks,); equal by default.

    Source of the four: B. Liu et al., MFTCoder, 2023, arXiv:2311.02303.

    Example:
        >>> weights = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
        >>> shares(weights, "token")
        (tensor([[0.0000, 0.2500, 0.2500, 0.2500],
                [0.0000, 0.2500, 0.0000, 0.0000]]), tensor(4.))
        >>> shares(weights, "sequence")
        (tensor([[0.0000, 0.1667, 0.1667, 0.1667],
                [0.0000, 0.5000, 0.0000, 0.0000]]), tensor(2.))
    """
    if reduction not in get_args(Reduction):
        raise ConfigError("reduction", reduction, ", ".join(get_args(Reduction)))
    weights = F.pad(weights[:, 1:].float(), (1, 0))  # nothing predicts the first token of a row
    size = weights.abs()
    if reduction == "token":
        total = size.sum()
        return _over(weights, total), total
    rows = torch.arange(len(weights), device=weights.device)[:, None].expand_as(weights)
    example = rows if documents is None else documents
    if reduction == "sequence":
        sums = _sums(size, example)
        count = (sums > 0).sum().float()
        return _over(_over(weights, sums[example]), count), count
    if tasks is None:
        raise ConfigError("reduction", reduction, "token or sequence: these data name no task (task_column)")
    task = tasks[:, None].expand_as(weights) if tasks.dim() == 1 else tasks
    importance = size.new_ones(int(task.max()) + 1) if task_weights is None else task_weights.float()
    if len(importance) <= int(task.max()):
        raise ConfigError("task_weights", importance.tolist(), f"one weight for each of {int(task.max()) + 1} tasks")
    in_task = _sums(size, task, len(importance))
    present = torch.where(in_task > 0, importance, 0.0)
    total = present.sum()
    share = _over(present, total)
    if reduction == "task":
        return _over(weights, in_task[task]) * share[task], total
    in_example = _sums(size, example)
    first = torch.zeros_like(in_example).scatter_reduce_(0, example.flatten(), task.flatten().float(), "amax")
    examples = _sums((in_example > 0).float(), first.long(), len(importance))
    return _over(_over(weights, in_example[example]), examples[task]) * share[task], total


def _sums(values: Tensor, groups: Tensor, number: int | None = None) -> Tensor:
    number = int(groups.max()) + 1 if number is None else number
    return values.new_zeros(number).scatter_add_(0, groups.flatten(), values.flatten())


def _over(values: Tensor, total: Tensor) -> Tensor:
    return torch.where(total > 0, values / total, 0.0)


def document_numbers(position_ids: Tensor) -> Tensor:
    """Number of the document of each token of packed rows, from positions that restart at 0.

    Example:
        >>> document_numbers(torch.tensor([[0, 1, 2, 0, 1]]))
        tensor([[0, 0, 0, 1, 1]])
    """
    return (position_ids == 0).flatten().cumsum(0).view_as(position_ids) - 1


def targets_of(states: Tensor, input_ids: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States that predict a target, the target, and its coefficient: the one place where positions are shifted by one.

    Args:
        states: Hidden states or logits, shape (rows, tokens, width).
        input_ids: Shape (rows, tokens).
        coefficients: Coefficient of each token as a target, shape (rows, tokens); tokens with 0 are left out.

    Example:
        >>> states, input_ids = torch.arange(3.0).view(1, 3, 1), torch.tensor([[7, 8, 9]])
        >>> targets_of(states, input_ids, torch.tensor([[0.0, 0.0, 1.0]]))
        (tensor([[1.]]), tensor([9]), tensor([1.]))
    """
    chosen = (coefficients[:, 1:] != 0).flatten().nonzero()[:, 0]
    before = chosen + torch.div(chosen, max(1, input_ids.shape[1] - 1), rounding_mode="floor")
    flat = states.reshape(-1, states.shape[-1]).index_select(0, before)
    return flat, input_ids.flatten()[before + 1], coefficients.flatten()[before + 1]


def weighted_cross_entropy(
    logits: Tensor,
    input_ids: Tensor,
    weights: Tensor,
    reduction: Reduction = "token",
    documents: Tensor | None = None,
    tasks: Tensor | None = None,
    task_weights: Tensor | None = None,
    loss: TokenLoss = TokenLoss(),
) -> Tensor:
    """Weighted cross-entropy from all logits, shape (rows, tokens, vocabulary); see :func:`shares`.

    Logits at a position predict the token at the next one. The softmax is taken in float32.

    See also: :class:`~lit_ft.tokens.readout.Readout`, which needs no logits of a whole batch.

    Example:
        >>> logits = torch.zeros(1, 3, 4)  # every token has probability 1 / 4
        >>> weighted_cross_entropy(logits, torch.tensor([[1, 2, 3]]), torch.ones(1, 3))
        tensor(1.3863)
    """
    coefficients, _ = shares(weights, reduction, documents, tasks, task_weights)
    return plain_loss(*targets_of(logits, input_ids, coefficients), loss)


def plain_loss(logits: Tensor, targets: Tensor, coefficients: Tensor, loss: TokenLoss) -> Tensor:
    """The sum of contributions, from logits of shape (tokens, vocabulary); differentiable any number of times."""
    log_probs = F.log_softmax(logits.float(), -1)
    mean = log_probs.mean(-1) if loss.label_smoothing else log_probs[:, 0]
    return loss(log_probs.gather(1, targets[:, None])[:, 0], mean, coefficients.float()).sum()
