"""One network, distilled from the features of several."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.facts import data_fact
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.optimizers import adamw
from lit_ft.core.schedules import Schedule
from lit_ft.models.images import image_classifier
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.concat_representations import Concatenation
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.independent_members import Members


class Distillation(Concatenation):
    """Frozen networks side by side, and a student with a linear map from its features to theirs.

    Args:
        members: Networks with a method ``features`` and a linear ``head``.
        student: Another such network; its head is not used.

    See also: :class:`~lit_ft.vision.concat_representations.Concatenation`.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> network = Distillation([MLP((4,), 3, width=8), MLP((4,), 3, width=8)], student=MLP((4,), 3, width=5))
        >>> images = torch.ones(2, 4)
        >>> network.features(images).shape, network.targets(images).shape, network.tells
        (torch.Size([2, 5]), torch.Size([2, 16]), Linear(in_features=5, out_features=16, bias=True))
    """

    def __init__(self, members: list[nn.Module], student: nn.Module) -> None:
        super().__init__(members)
        self.requires_grad_(False).eval()
        self.student = Members([student])
        head: Any = student.head
        head.requires_grad_(False)
        self.tells = nn.Linear(head.in_features, self.head.in_features)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """The members' features, shape (rows, sum of the widths)."""
        return super().features(images)

    def features(self, images: Tensor) -> Tensor:
        """Features of the student, shape (rows, width)."""
        return self.student.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits of the members' heads on the features that the student predicts, shape (rows, classes)."""
        return self.head(self.tells(self.features(images)))


class DistilledRepresentations(ImageClassifier):
    r"""Trains one network whose features predict those of n others by a linear map (Distil-n).

    .. math:: \min_{\phi, V, c} \; \frac{1}{D} \lVert V \phi(x) + c - [\phi_1(x); \dots; \phi_n(x)] \rVert^2

    with D the sum of their widths. A linear probe on the student can then use what the n runs learned, at the cost of
    one network. The members are frozen, in evaluation mode; they are the first n of a run of ``IndependentMembers``
    (``lit-ft fit --from RUN``), else random networks. Labels are used for the accuracy only: that of the members'
    average head on the features that the student predicts.

    Reads :class:`ImagesBatch`. Logs ``loss``, and in validation and test ``accuracy``. Cost: n forward passes and one
    step of the student; checkpoints hold the members too.

    Source: "Learning useful representations for shifting tasks and distributions" (code TjuJianyu/RRL) names
    distillation into one network; the loss is ours.

    Args:
        network: ``{config: {model_type: mlp | cnn, ...}}``; the structure of each member.
        num_members: n, at least 1 (paper: 2, 4, 5, 10).
        student: The structure of the student; None takes that of a member.
        num_classes: None takes it from the data module.
        input_shape: Shape of one row; None takes it from the data module.
        optimizer: Makes the optimizer from parameters.
        schedule: Learning-rate schedule; None keeps the rate constant.
        metrics: As in :class:`ImageClassifier`.

    See also: :class:`~lit_ft.methods.IndependentMembers`, :class:`~lit_ft.methods.ConcatRepresentations`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> model = DistilledRepresentations({"config": {"model_type": "mlp", "width": 8, "depth": 1}}, num_members=2)
        >>> trainer = pl.Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, GaussianClusters())
        >>> sorted({name.split(".")[1] for name in model.trainable_parameters()})  # the members are frozen
        ['student', 'tells']
    """

    def __init__(
        self,
        network: Network,
        num_members: PositiveInt = 5,
        student: Network | None = None,
        num_classes: int | None = None,
        input_shape: list[int] | None = None,
        optimizer: OptimizerCallable = adamw,
        schedule: Schedule | None = None,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__(
            network=network,
            num_classes=num_classes,
            input_shape=input_shape,
            loss="squared_error",
            optimizer=optimizer,
            schedule=schedule,
            metrics=metrics,
        )
        checked(locals())
        self.num_members = num_members
        self.student = None if student is None else Network.of(student)

    def build_network(self) -> nn.Module:
        """The members, and the student."""
        members = [super(DistilledRepresentations, self).build_network() for _ in range(self.num_members)]
        if self.student is None:
            return Distillation(members, super().build_network())
        shape = tuple(data_fact(self, "input_shape"))
        return Distillation(members, image_classifier(self.student, data_fact(self, "num_classes"), shape))

    @property
    def distillation(self) -> Distillation:
        """Members and student."""
        assert isinstance(self.network, Distillation)
        return self.network

    def on_fit_start(self) -> None:
        """Average the heads of members from another run; a resumed run keeps its head."""
        if from_its_start(self.trainer):
            self.distillation.average()

    @override
    def frozen_parts(self) -> list[nn.Module]:
        return [self.distillation.members]

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean squared error over rows and features."""
        images, distillation = batch["images"], self.distillation
        told = distillation.tells(distillation.features(images))
        loss = (told - distillation.targets(images)).float().square().mean()
        return Output(loss, predictions=distillation.head(told).float(), targets=batch["labels"])
