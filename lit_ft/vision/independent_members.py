"""Several networks, trained independently on the same batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.linear_head import linear_head


class Members(nn.Module):
    """Networks side by side: their mean logits, and their concatenated features.

    Args:
        members: Networks with a method ``features`` and a linear ``head``.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> network, images = Members([MLP((4,), 3, width=8), MLP((4,), 3, width=8)]), torch.ones(5, 4)
        >>> network(images).shape, network.features(images).shape
        (torch.Size([5, 3]), torch.Size([5, 16]))
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        for member in members:
            linear_head(member)
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Shape (rows, classes)."""
        return torch.stack([member(images) for member in self.members]).mean(0)

    def features(self, images: Tensor) -> Tensor:
        """Shape (rows, sum of the widths)."""
        return torch.cat([member.features(images) for member in self.members], -1)  # type: ignore[operator]


class IndependentMembers(ImageClassifier):
    r"""Trains n networks that differ in their random weights, :math:`\sum_i \ell(w_i)` on the same batches.

    Each gets the gradient that it would get alone, unless gradients are clipped by norm; predictions are their mean
    logits. The callback ``FeatureProbe`` with other ``data`` measures their concatenated features on a new task;
    ``ConcatRepresentations`` continues from them.

    Reads :class:`ImagesBatch`. Logs ``loss`` (in training the sum, else that of the mean logits), and in validation and
    test ``accuracy``. Cost and memory: n times those of one network.

    Source: "Learning useful representations for shifting tasks and distributions" (code TjuJianyu/RRL), Cat-n.

    Args:
        network: ``{config: {model_type: mlp | cnn, ...}}``.
        num_members: n, at least 1 (paper: 2, 4, 5, 10).
        **kwargs: As in :class:`ImageClassifier`.

    See also: :class:`~lit_ft.methods.ConcatRepresentations`, :class:`~lit_ft.methods.DistilledRepresentations`.

    Example:
        >>> config = {"model_type": "mlp", "width": 8, "depth": 1}
        >>> model = IndependentMembers({"config": config}, num_members=3, num_classes=2, input_shape=[4])
        >>> model.configure_model()
        >>> batch = {"images": torch.zeros(1, 4), "labels": torch.tensor([0])}
        >>> model.train().compute(batch).loss > 2 * model.eval().compute(batch).loss  # a sum, and a single loss
        tensor(True)
    """

    def __init__(self, network: Network, num_members: PositiveInt = 5, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.num_members = num_members

    def build_network(self) -> nn.Module:
        """Networks with independent random weights."""
        return Members([super(IndependentMembers, self).build_network() for _ in range(self.num_members)])

    def compute(self, batch: ImagesBatch) -> Output:
        """In training the sum of the members' losses, else the loss of their mean logits."""
        if not self.training:
            return super().compute(batch)
        assert isinstance(self.network, Members)
        outputs = [member(batch["images"]).float() for member in self.network.members]
        losses = torch.stack([self.row_losses(logits, batch["labels"]).mean() for logits in outputs])
        return Output(losses.sum(), predictions=torch.stack(outputs).mean(0), targets=batch["labels"])
