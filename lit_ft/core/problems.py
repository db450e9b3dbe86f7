"""What a label is, and what follows: outputs of the head, loss, metrics, predictions.

The three kinds have the names that configurations of ``transformers`` give them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score
from torchmetrics.regression import MeanAbsoluteError, PearsonCorrCoef, R2Score
from torchmetrics.utilities.data import dim_zero_cat

from lit_ft.core.checks import PositiveFloat
from lit_ft.core.classes import class_rows
from lit_ft.core.errors import ConfigError, nearest

CLASS: Literal["single_label_classification"] = "single_label_classification"
CLASSES: Literal["multi_label_classification"] = "multi_label_classification"
NUMBER: Literal["regression"] = "regression"
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
ClassWeights = Literal["balanced"] | dict[str, PositiveFloat]


def label_loss(problem: ProblemType, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The mean loss over rows.

    - One class: :math:`-\sum_i w_{y_i} \log p(y_i \mid x_i) / \sum_i w_{y_i}`.
    - Any number of :math:`K` classes: :math:`-\frac{1}{nK}\sum_{i,k} [w_k y_{ik} \log p_{ik} + (1 - y_{ik}) \log
      (1 - p_{ik})]`.
    - A number: :math:`\frac{1}{n}\sum_i (f(x_i) - y_i)^2`.

    Args:
        problem: What a label is.
        logits: Outputs of the head, shape (rows, outputs).
        labels: int64 (rows,), float32 (rows, classes) or float32 (rows,).
        weights: Of each class, shape (classes,); None is 1.

    Example:
        >>> label_loss("regression", torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
        tensor(2.)
    """
    if problem == NUMBER:
        return (logits.squeeze(-1) - labels).square().mean()
    if problem == CLASSES:
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    return F.cross_entropy(logits, labels, weight=weights)


def label_weight(problem: ProblemType, labels: Tensor, weights: Tensor | None = None) -> Tensor | float:
    """The denominator of :func:`label_loss`: rows, or the weights of their classes.

    Example:
        >>> label_weight("single_label_classification", torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        tensor(4.)
    """
    return weights[labels].sum() if problem == CLASS and weights is not None else float(len(labels))


def readable(problem: ProblemType, logits: Tensor) -> Tensor:
    """What metrics and predictions read: logits of one class, probabilities of several, numbers.

    Example:
        >>> readable("multi_label_classification", torch.zeros(1, 2)), readable("regression", torch.ones(1, 1))
        (tensor([[0.5000, 0.5000]]), tensor([1.]))
    """
    if problem == NUMBER:
        return logits.squeeze(-1)
    return logits.sigmoid() if problem == CLASSES else logits


def label_metrics(problem: ProblemType, classes: int) -> dict[str, Metric]:
    """Metrics for several classes (``map``, ``f1``, macro) and for numbers (``absolute_error``, ``r2``, ``pearson``).

    Example:
        >>> sorted(label_metrics("regression", 0))
        ['absolute_error', 'pearson', 'r2']
    """
    if problem == NUMBER:
        return {"absolute_error": MeanAbsoluteError(), "r2": Determination(), "pearson": Correlation()}
    f1 = MultilabelF1Score(classes, average="macro")
    return {"map": MeanAveragePrecision(classes, average="none"), "f1": f1}


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Mean of the average precision of each class that a row has.

    Example:
        >>> metric = MeanAveragePrecision(3, average="none")
        >>> metric(torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.8, 0.2]]), torch.tensor([[1, 0, 0], [0, 1, 0]]))
        tensor(1.)
    """

    def compute(self) -> Tensor:  # type: ignore[override]
        """NaN where no row has a class."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that no row has, which are left out
            return torch.as_tensor(super().compute())[dim_zero_cat(self.target).sum(0) > 0].mean()


class Determination(R2Score):
    """The coefficient of determination; NaN of fewer than two rows.

    Example:
        >>> Determination()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])), Determination()(*2 * [torch.ones(1)])
        (tensor(1.), tensor(nan))
    """

    def compute(self) -> Tensor:  # type: ignore[override]
        """NaN where it is not defined."""
        return super().compute() if int(self.total) > 1 else torch.tensor(torch.nan, device=self.device)


class Correlation(PearsonCorrCoef):
    """Pearson's correlation; NaN of fewer than two rows, or of rows that do not differ.

    Example:
        >>> Correlation()(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 6.0, 4.0]))
        tensor(1.)
    """

    higher_is_better = True  # torchmetrics leaves it open

    def compute(self) -> Tensor:  # type: ignore[override]
        """NaN where it is not defined."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a variance that is zero
            return super().compute()


def label_rows(
    problem: ProblemType, names: Sequence[str] | None, predictions: Tensor, labels: Tensor | None
) -> list[dict[str, Any]]:
    """What ``predictions.jsonl`` says of rows: classes with probabilities, or numbers; and what was expected.

    Several classes are predicted where their probability is 0.5 or more.

    Args:
        problem: What a label is.
        names: Names of the classes by number.
        predictions: As :func:`readable` gives them.
        labels: The expected ones; None is not known.

    Example:
        >>> label_rows("multi_label_classification", ["big", "red"], torch.tensor([[0.75, 0.25]]), None)
        [{'label': ['big'], 'probabilities': {'big': 0.75, 'red': 0.25}}]
        >>> label_rows("regression", None, torch.tensor([1.5]), torch.tensor([2.0]))
        [{'predicted': 1.5, 'expected': 2.0}]
    """
    if problem == CLASS:
        return class_rows(names, predictions, labels)
    expected = [None] * len(predictions) if labels is None else labels.tolist()
    if problem == NUMBER:
        pairs = zip(predictions.tolist(), expected, strict=True)
        return [{"predicted": number, **({} if right is None else {"expected": right})} for number, right in pairs]
    called = [*(names or ()), *map(str, range(len(names or ()), predictions.shape[-1]))]
    rows = []
    for scores, right in zip(predictions.tolist(), expected, strict=True):
        row: dict[str, Any] = {"label": _marked(called, [score >= 0.5 for score in scores])}
        row |= {} if right is None else {"expected": _marked(called, right)}
        rows.append({**row, "probabilities": dict(zip(called, scores, strict=True))})
    return rows


def _marked(names: Sequence[str], marks: Sequence[Any]) -> list[str]:
    return [name for name, mark in zip(names, marks, strict=True) if mark]


def class_weight_tensor(
    given: Literal["balanced"] | Mapping[str, float],
    problem: ProblemType,
    classes: int,
    names: Sequence[str] | None,
    counts: Sequence[int] | None,
    rows: int | None,
) -> Tensor:
    r"""The weight of each class.

    ``balanced`` is :math:`n / (K n_k)` of :math:`n_k` of :math:`n` training rows for one class of :math:`K`, and
    :math:`(n - n_k) / n_k` for any number of classes.

    Args:
        given: ``balanced``, or weights by name; a class that is not named weighs 1.
        problem: What a label is.
        classes: Number of classes.
        names: Their names; None is not known.
        counts: Training rows of each; None is not known, as in a checkpoint without its data, which holds the weights.
        rows: Training rows.

    Raises:
        ConfigError: There is no such class, or none of its rows to balance.

    Example:
        >>> class_weight_tensor("balanced", "single_label_classification", 2, ["a", "b"], [3, 1], 4)
        tensor([0.6667, 2.0000])
        >>> class_weight_tensor({"c": 2.0}, "single_label_classification", 2, ["a", "b"], None, None)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: class_weights: given 'c'; allowed: names of classes: a, b
    """
    called = list(names or map(str, range(classes)))
    if given != "balanced":
        given = {str(name): weight for name, weight in given.items()}  # type: ignore[union-attr]
        for name in given:
            if name not in called and names is not None:
                raise ConfigError(
                    "class_weights", name, f"names of classes: {', '.join(called)}{nearest(name, called)}"
                )
        return torch.tensor([float(given.get(name, 1.0)) for name in called] + [1.0] * (classes - len(called)))
    if counts is None or rows is None:
        return torch.ones(classes)
    total = torch.tensor([*counts, *[0] * (classes - len(counts))], dtype=torch.float64)
    wrong = [
        name for name, count in zip(called, counts, strict=False) if not count or (problem == CLASSES and count == rows)
    ]
    if wrong or len(counts) < classes:
        allowed = (
            f"weights by name, as the training rows have none, or nothing but it, of: {', '.join(wrong) or 'a class'}"
        )
        raise ConfigError("class_weights", given, allowed)
    return ((rows - total) / total if problem == CLASSES else rows / (classes * total)).float()
