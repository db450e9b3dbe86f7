"""Classify images that have groups."""

from __future__ import annotations

import torch
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_fact
from lit_ft.core.method import Output
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.group_accuracy import GroupAccuracy
from lit_ft.vision.image_classifier import ImageClassifier


class GroupedClassifier(ImageClassifier):
    """:class:`ImageClassifier` that also measures the accuracy in the worst group of rows.

    Reads :class:`ImagesBatch` with ``groups``, which are ``num_classes * label + attribute`` for an attribute with
    as many values as there are classes. Logs ``loss``, ``accuracy`` and ``worst_group``. Metrics read logits of shape
    (rows, classes) and targets of shape (rows, 2), the label and the group of each row.

    See also: :class:`~lit_ft.metrics.GroupAccuracy`, :class:`~lit_ft.data.SideBySide`.

    Example:
        >>> model = GroupedClassifier({"config": {"model_type": "mlp"}}, num_classes=2, input_shape=[4])
        >>> model.configure_model()
        >>> labels, attributes = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
        >>> batch = {"images": torch.ones(3, 4), "labels": labels, "groups": 2 * labels + attributes}
        >>> model.compute(batch).targets
        tensor([[0, 0],
                [1, 2],
                [1, 3]])
    """

    def configure_metrics(self) -> dict[str, Metric]:
        """Accuracy over rows, and in the worst group."""
        groups = data_fact(self, "num_classes") ** 2
        return {"accuracy": GroupAccuracy(groups, "rows"), "worst_group": GroupAccuracy(groups, "worst")}

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean loss over the rows; targets are pairs of label and group."""
        output = super().compute(batch)
        if "groups" not in batch:
            raise ConfigError("data", sorted(batch), "batches with groups, such as those of SideBySide")
        output.targets = torch.stack([batch["labels"], batch["groups"]], 1)
        return output
