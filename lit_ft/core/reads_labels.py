"""What classifiers share: which kind of label they predict, known from the data, and what each class weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_ft.core.classes import NamesClasses
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_fact, data_of
from lit_ft.core.problems import (
    CLASS,
    NUMBER,
    ClassWeights,
    ProblemType,
    class_weight_tensor,
    label_loss,
    label_metrics,
    label_weight,
)

WEIGHTS = "class_weights"


class ReadsLabels(NamesClasses):
    """Mixed into a method whose labels may be one class, any number of classes, or a number.

    Its ``compute`` reads all of them, and is named once more as ``general``: a subclass with a ``compute`` of its own
    reads one class a row, unless it says otherwise.

    See also: :mod:`lit_ft.core.problems`.

    Example:
        >>> from lit_ft.methods import ImageClassifier
        >>> config = {"model_type": "mlp", "width": 4}
        >>> model = ImageClassifier({"config": config}, input_shape=[2], problem_type="regression")
        >>> model.configure_model()
        >>> model.compute({"images": torch.zeros(3, 2), "labels": torch.zeros(3)}).predictions.shape
        torch.Size([3])
    """

    general: ClassVar[Callable[..., Any] | None] = None
    problem_type: ProblemType | None = None
    class_weights: ClassWeights | None = None
    num_classes: int | None
    class_weight: Tensor | None
    """The weight of each class, from ``class_weights``."""

    @property
    def problem(self) -> ProblemType:
        """What a label is; one class where nothing says otherwise."""
        return self.problem_type or CLASS

    def setup(self, stage: str) -> None:
        """Take what a label is from the data, and refuse what does not go together."""
        super().setup(stage)
        data = data_of(self)
        theirs = getattr(data, "problem_type", None)
        if theirs is not None and self.problem_type not in (None, theirs):
            raise ConfigError(
                "problem_type", self.problem_type, f"{theirs}, as the labels of {type(data).__name__} are"
            )
        if theirs is not None and self.problem_type is None:
            self.problem_type = theirs
            self.save_hyperparameters({"problem_type": theirs})
        self.check_problem()

    def check_problem(self) -> None:
        """Refuse settings that this kind of label, or this class, does not read."""
        own = type(self).compute is not type(self).general  # type: ignore[attr-defined]
        if own and self.problem != CLASS:
            raise ConfigError("problem_type", self.problem, f"{CLASS} for {type(self).__name__}")
        if self.class_weights is not None and (own or self.problem == NUMBER):
            of = type(self).__name__ if own else self.problem
            raise ConfigError("class_weights", self.class_weights, f"null for {of}")
        if self.problem == NUMBER and self.num_classes is not None:
            raise ConfigError("num_classes", self.num_classes, f"null for {NUMBER}")

    def outputs(self) -> int:
        """Outputs of the head."""
        return 1 if self.problem == NUMBER else data_fact(self, "num_classes")

    def after_build(self, network: nn.Module) -> None:
        """Make the weights of the classes; they are no part of the weights of the network."""
        super().after_build(network)
        self.check_problem()
        weight = None
        if self.class_weights is not None:
            data, names = data_of(self), self.class_names
            counts, rows = getattr(data, "class_counts", None), getattr(data, "train_rows", None)
            weight = class_weight_tensor(self.class_weights, self.problem, self.outputs(), names, counts, rows)
        self.register_buffer("class_weight", weight, persistent=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights of the classes, which a later use without the training rows could not balance."""
        super().on_save_checkpoint(checkpoint)
        if self.class_weight is not None:
            checkpoint[WEIGHTS] = self.class_weight.tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that predict another kind of label; take the weights of classes where no data give them."""
        trained = checkpoint.get("hyper_parameters", {}).get("problem_type") or CLASS
        if self.problem_type not in (None, trained):
            raise ConfigError("data", f"labels for {self.problem_type}", f"labels as in the training: {trained}")
        super().on_load_checkpoint(checkpoint)
        if self.class_weights == "balanced" and getattr(data_of(self), "class_counts", None) is None:
            self.class_weight = torch.tensor(checkpoint[WEIGHTS], device=self.device) if WEIGHTS in checkpoint else None

    def labels_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over rows, see :func:`~lit_ft.core.problems.label_loss`."""
        return label_loss(self.problem, logits, labels, self.class_weight)

    def labels_weight(self, labels: Tensor) -> Tensor | float:
        """Its denominator."""
        return label_weight(self.problem, labels, self.class_weight)

    def configure_metrics(self) -> dict[str, Metric]:
        """Those of this kind of label."""
        return label_metrics(self.problem, self.outputs()) if self.problem != CLASS else self.class_metrics()

    def class_metrics(self) -> dict[str, Metric]:
        """Metrics of one class a row."""
        raise NotImplementedError(f"{type(self).__name__} defines class_metrics()")
