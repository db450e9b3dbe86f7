"""Metrics over generated answers, compared with the expected ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError


class AnswerMetric(Metric):
    """The mean score of generated answers, over all processes; a subclass defines ``score``.

    Example:
        >>> class Shorter(AnswerMetric):
        ...     def score(self, answer, expected):
        ...         return float(len(answer) < len(expected))
        >>> metric = Shorter()
        >>> metric.update(["yes", "no"], ["yes", "yes"])
        >>> metric.compute()
        tensor(0.5000)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def score(self, answer: str, expected: str) -> float:
        """The score of one answer."""
        raise NotImplementedError(f"{type(self).__name__} defines score(answer, expected)")

    def update(self, answers: Sequence[str], expected: Sequence[str]) -> None:
        """Add answers, and the answers that were expected."""
        for answer, right in zip(answers, expected, strict=True):
            self.total += self.score(answer, right)
            self.count += 1

    def compute(self) -> Tensor:
        """The mean, as float32."""
        return (self.total / self.count).float()


class AnswerAccuracy(AnswerMetric):
    """Share of answers that equal the expected one; spaces around them do not count.

    Args:
        after: Compare only the text after the last occurrence of this one, such as a result after its derivation; an
            answer without it is wrong. None compares whole answers.

    Example:
        >>> metric = AnswerAccuracy(after="####")
        >>> metric.update(["2 + 2 = 4 #### 4", "5"], ["#### 4", "#### 5"])
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, after: str | None = None) -> None:
        super().__init__()
        if after == "":
            raise ConfigError("after", after, "a text, or null")
        self.after = after

    def score(self, answer: str, expected: str) -> float:
        """1 if they are equal, else 0."""
        if self.after is None:
            return float(answer.strip() == expected.strip())
        (_, mark, said), (_, _, right) = answer.rpartition(self.after), expected.rpartition(self.after)
        return float(bool(mark) and said.strip() == right.strip())
