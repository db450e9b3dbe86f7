"""Fine-tuning whose head is also trained on features of the pre-trained network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from typing_extensions import override

from lit_ft.core.checks import NonNegativeFloat, PositiveInt, checked
from lit_ft.core.gathering import gather_rows
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.optimizers import adamw
from lit_ft.core.schedules import Schedule
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.linear_head import linear_head
from lit_ft.vision.row_memory import RowMemory
from lit_ft.vision.semantic_calibration import calibrated, rotation


class DistributionRegularized(ImageClassifier):
    r"""DR-Tune: :math:`\ell(h(f_d(x)), y) + \lambda\, \ell(h(\tilde f_p(x')), y')`.

    The head h is also trained on features of the frozen pre-trained network :math:`f_p` for the last ``memory`` rows
    x', calibrated against the drift of :math:`f_d` (:func:`~lit_ft.vision.semantic_calibration.calibrated`): rotated as
    a whole, and shifted class by class. This regularises the head; it gives no gradient for :math:`f_d`. Validation,
    test and deployment use :math:`f_d` and h only.

    The pre-trained weights are those at the start of the fit: of ``network.path``, or of ``--from RUN``.

    Reads :class:`ImagesBatch`. Logs ``loss``, ``train/memory_loss``, and in validation and test ``accuracy``.
    Cost: another forward pass and the head on ``memory`` rows per step, and a singular value decomposition of (width,
    width) every ``turn_every_n_steps``. Memory: a copy of the network, and twice ``memory`` x width numbers, also in
    checkpoints.

    Source: "DR-Tune: Improving Fine-tuning of Pretrained Visual Models by Distribution Regularization with Semantic
    Calibration" (code weeknan/DR-Tune). Deviations: the memory fills during training (the code fills it first); the
    last rotation is used until the next (the code does not rotate in other steps); any batch size; the optimizer has
    one learning rate.

    Args:
        network: ``{config: {model_type: mlp | cnn, ...}}``.
        weight: :math:`\lambda`, at least 0; None takes one mean over the rows of batch and memory, as the code does.
        memory: Rows in the memory, at least 1 (code: 2048).
        turn_every_n_steps: Steps between updates of the rotation, at least 1 (code: 10); the first one waits until the
            memory holds as many rows as features have dimensions.
        num_classes: None takes it from the data module.
        input_shape: Shape of one row; None takes it from the data module.
        optimizer: Makes the optimizer from parameters.
        schedule: Learning-rate schedule; None keeps the rate constant.
        metrics: As in :class:`ImageClassifier`.

    See also: :func:`~lit_ft.vision.semantic_calibration.rotation`, :class:`~lit_ft.vision.row_memory.RowMemory`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> model = DistributionRegularized({"config": {"model_type": "mlp", "width": 8, "depth": 1}}, memory=64)
        >>> trainer = pl.Trainer(fast_dev_run=3, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, GaussianClusters(batch_size=16))
        >>> int(model.memory.count), model.calibrated_memory().shape  # three batches
        (48, torch.Size([48, 8]))
    """

    turn: Tensor

    def __init__(
        self,
        network: Network,
        weight: NonNegativeFloat | None = None,
        memory: PositiveInt = 2048,
        turn_every_n_steps: PositiveInt = 10,
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
            loss="cross_entropy",
            optimizer=optimizer,
            schedule=schedule,
            metrics=metrics,
        )
        checked(locals())
        self.weight, self.memory_size, self.turn_every_n_steps = weight, memory, turn_every_n_steps
        self._fresh: dict[str, Tensor] | None = None
        self._step = 0

    def after_build(self, network: nn.Module) -> None:
        """Make the frozen copy and the memory."""
        super().after_build(network)
        row = torch.zeros(linear_head(network).in_features)
        self.frozen = copy.deepcopy(network).requires_grad_(False).eval()
        self.memory = RowMemory(self.memory_size, {"own": row, "pre": row, "labels": torch.tensor(0)})
        self.register_buffer("turn", torch.eye(len(row)))

    def on_fit_start(self) -> None:
        """Copy the weights that the fit starts from; a resumed run has them."""
        if from_its_start(self.trainer):
            self.frozen.load_state_dict(self.network.state_dict())

    def on_train_start(self) -> None:
        """Store the step that the run begins with."""
        super().on_train_start()
        self._step = self.global_step

    @override
    def frozen_parts(self) -> list[nn.Module]:
        return [self.frozen]

    def compute(self, batch: ImagesBatch) -> Output:
        """The loss on the batch; in training with the loss on calibrated features of the memory."""
        if not self.training:
            return super().compute(batch)
        network = self.network
        images, labels = batch["images"], batch["labels"]
        own = network.features(images)
        with torch.no_grad():
            pre = self.frozen.features(images)  # type: ignore[operator]
        self._fresh = {"own": own.detach(), "pre": pre, "labels": labels}
        loss = F.cross_entropy(network.head(own).float(), labels)
        count = int(self.memory.count)
        if count == 0:
            return Output(loss, scalars={"memory_loss": 0.0})
        remembered = F.cross_entropy(network.head(self.calibrated_memory()).float(), self.memory.column("labels"))
        if self.weight is not None:
            total = loss + self.weight * remembered
        else:
            total = (len(labels) * loss + count * remembered) / (len(labels) + count)
        return Output(total, scalars={"memory_loss": remembered.detach()})

    @torch.no_grad()
    def calibrated_memory(self) -> Tensor:
        """Calibrated features of the pre-trained network for the rows in memory; shape (rows, width)."""
        network = self.network
        pre, own, labels = (self.memory.column(name) for name in ("pre", "own", "labels"))
        return calibrated(pre, own, labels, network.head.weight, self.turn)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the rows of the batch to the memory, once, and update the rotation when it is due."""
        if self._fresh is not None:
            self.memory.add({name: gather_rows(part)[0] for name, part in self._fresh.items()})
        self._fresh = None
        stepped, self._step = self.global_step != self._step, self.global_step
        enough = int(self.memory.count) >= len(self.turn)  # else the rotation is not determined
        if stepped and enough and self.global_step % self.turn_every_n_steps == 0:
            pre, own = (F.normalize(self.memory.column(name), dim=-1) for name in ("pre", "own"))
            self.turn.copy_(rotation(pre, own))
