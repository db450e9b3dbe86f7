"""Classify images, or vectors of numbers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_ft.core.checks import checked
from lit_ft.core.classes import NamesClasses, class_rows
from lit_ft.core.facts import NumClasses, data_fact
from lit_ft.core.method import Method, Output
from lit_ft.core.network import Network
from lit_ft.vision.batch import ImagesBatch


class ImageClassifier(NamesClasses, Method):
    r"""Cross-entropy, or squared error against one-hot targets.

    ``cross_entropy`` is :math:`-\frac{1}{n}\sum_i \log p(y_i \mid x_i)`; ``squared_error`` is
    :math:`\frac{1}{n}\sum_i \frac{1}{2} \lVert f(x_i) - e_{y_i} \rVert^2`, as in J. Cohen et al., Gradient Descent on
    Neural Networks Typically Occurs at the Edge of Stability, 2021, arXiv 2103.00065.

    Reads :class:`ImagesBatch`. Logs ``loss``, and in validation and test ``accuracy``. Metrics read logits of
    shape (rows, classes) and labels of shape (rows,).

    Args:
        network: ``{config: {model_type: mlp | cnn, width: ..., depth: ..., activation: ...}}``, or a path or config of
            an image classifier of ``transformers``.
        num_classes: At least 2; None takes it from the data module.
        input_shape: Shape of one row; None takes it from the data module.
        loss: ``cross_entropy`` or ``squared_error``.
        **kwargs: As in :class:`Method`.

    See also: :class:`~lit_ft.methods.GroupedClassifier`, :class:`~lit_ft.methods.Regression`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> config = {"model_type": "mlp", "width": 8, "depth": 1}
        >>> model = ImageClassifier({"config": config}, optimizer=lambda found: torch.optim.Adam(found, lr=0.02))
        >>> trainer = pl.Trainer(fast_dev_run=60, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, GaussianClusters(rows=3200, classes=2, distance=4.0))
        >>> trainer.callback_metrics["val/accuracy"] > 0.95
        tensor(True)
    """

    batch: ClassVar[type] = ImagesBatch
    facts: ClassVar[tuple[str, ...]] = ("num_classes", "input_shape")

    def __init__(
        self,
        network: Network,
        num_classes: NumClasses | None = None,
        input_shape: list[int] | None = None,
        loss: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.num_classes, self.input_shape, self.loss = num_classes, input_shape, loss

    def build_network(self) -> nn.Module:
        """The network with a head of ``num_classes``."""
        from lit_ft.models.images import image_classifier

        assert self.spec is not None
        shape = tuple(data_fact(self, "input_shape"))
        return image_classifier(self.spec, data_fact(self, "num_classes"), shape)

    def configure_metrics(self) -> dict[str, Metric]:
        """Accuracy."""
        return {"accuracy": MulticlassAccuracy(data_fact(self, "num_classes"), average="micro")}

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (rows, classes)."""
        output = self.network(images.to(next(self.network.parameters()).dtype))
        return output if isinstance(output, Tensor) else output.logits

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean loss over the rows."""
        logits, labels = self(batch["images"]).float(), batch["labels"]
        return Output(self.row_losses(logits, labels).mean(), predictions=logits, targets=labels)

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row, shape (rows,)."""
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return 0.5 * (logits - targets).square().sum(-1)

    def prediction_rows(self, batch: ImagesBatch, predictions: Tensor) -> list[dict[str, Any]]:
        """Classes and probabilities; what was fitted to one-hot targets is none, and is called outputs."""
        word = "probabilities" if self.loss == "cross_entropy" else "outputs"
        return class_rows(self.class_names, predictions, batch.get("labels"), word)

    def loss_weight(self, batch: ImagesBatch) -> float:
        """Number of rows."""
        return float(len(batch["labels"]))

    def features(self, batch: ImagesBatch) -> Tensor:
        """Input of the head, averaged over positions; shape (rows, width)."""
        images = batch["images"].to(next(self.network.parameters()).dtype)
        own = getattr(self.network, "features", None)
        if own is not None:
            return own(images)
        hidden = self.network(images, output_hidden_states=True).hidden_states[-1]
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)
