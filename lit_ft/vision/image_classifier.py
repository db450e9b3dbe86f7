"""Classify images, or vectors of numbers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_ft.core.checks import checked
from lit_ft.core.classes import class_rows
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import NumClasses, data_fact
from lit_ft.core.method import Method, Output
from lit_ft.core.network import Network
from lit_ft.core.problems import CLASS, CLASSES, ClassWeights, ProblemType, label_rows, readable
from lit_ft.core.reads_labels import ReadsLabels
from lit_ft.vision.batch import ImagesBatch


class ImageClassifier(ReadsLabels, Method):
    r"""Cross-entropy, or squared error against one-hot targets; any number of classes a row, or a number.

    ``cross_entropy`` is :math:`-\frac{1}{n}\sum_i \log p(y_i \mid x_i)`; ``squared_error`` is
    :math:`\frac{1}{n}\sum_i \frac{1}{2} \lVert f(x_i) - e_{y_i} \rVert^2`, as in J. Cohen et al., Gradient Descent on
    Neural Networks Typically Occurs at the Edge of Stability, 2021, arXiv 2103.00065.

    For several classes and numbers, and with weights, see :func:`~lit_ft.core.problems.label_loss`.

    Reads :class:`ImagesBatch`. Logs ``loss``, and in validation and test ``accuracy``; of several classes a row ``map``
    and ``f1`` (macro), of numbers ``absolute_error``, ``r2`` and ``pearson``. Metrics read logits of shape (rows,
    classes) and labels of shape (rows,); of several classes, probabilities and labels of shape (rows, classes); of
    numbers, both of shape (rows,).

    Args:
        network: ``{config: {model_type: mlp | cnn, width: ..., depth: ..., activation: ...}}``, or a path or config of
            an image classifier of ``transformers``.
        num_classes: At least 2; None takes it from the data module. Numbers have none.
        input_shape: Shape of one row; None takes it from the data module.
        loss: ``cross_entropy`` or ``squared_error``, of one class a row.
        problem_type: What a label is: ``single_label_classification``, ``multi_label_classification`` or
            ``regression``; None takes it from the data module, without one it is one class.
        class_weights: What each class weighs in the loss: ``balanced``, or a mapping from its name to a number above 0
            (others weigh 1); None weighs all alike.
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
    facts: ClassVar[tuple[str, ...]] = ("num_classes", "input_shape", "problem_type")

    def __init__(
        self,
        network: Network,
        num_classes: NumClasses | None = None,
        input_shape: list[int] | None = None,
        loss: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        problem_type: ProblemType | None = None,
        class_weights: ClassWeights | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.num_classes, self.input_shape, self.loss = num_classes, input_shape, loss
        self.problem_type, self.class_weights = problem_type, class_weights

    def build_network(self) -> nn.Module:
        """The network with a head of ``num_classes``, or of one number."""
        from lit_ft.models.images import image_classifier

        assert self.spec is not None
        return image_classifier(self.spec, self.outputs(), tuple(data_fact(self, "input_shape")))

    def check_problem(self) -> None:
        """Refuse also a loss against one-hot targets where there are none."""
        super().check_problem()
        if self.loss == "squared_error" and (self.problem != CLASS or self.class_weights is not None):
            raise ConfigError("loss", self.loss, "cross_entropy with class_weights, and unless a row has one class")

    def class_metrics(self) -> dict[str, Metric]:
        """Accuracy."""
        return {"accuracy": MulticlassAccuracy(data_fact(self, "num_classes"), average="micro")}

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (rows, classes)."""
        output = self.network(images.to(next(self.network.parameters()).dtype))
        return output if isinstance(output, Tensor) else output.logits

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean loss over the rows."""
        logits, labels = self(batch["images"]).float(), batch["labels"]
        plain = self.problem == CLASS and self.class_weight is None
        loss = self.row_losses(logits, labels).mean() if plain else self.labels_loss(logits, labels)
        targets = labels.int() if self.problem == CLASSES else labels
        return Output(loss, predictions=readable(self.problem, logits), targets=targets)

    general = compute

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row of one class, without weights, shape (rows,)."""
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return 0.5 * (logits - targets).square().sum(-1)

    def predict_step(self, batch: ImagesBatch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """As ``compute`` gives them, also of pictures without labels."""
        if "labels" in batch:
            return self.compute(batch).predictions
        return readable(self.problem, self(batch["images"]).float())

    def prediction_rows(self, batch: ImagesBatch, predictions: Tensor) -> list[dict[str, Any]]:
        """Classes and probabilities; what was fitted to one-hot targets is none, and is called outputs."""
        if self.loss == "squared_error":
            return class_rows(self.class_names, predictions, batch.get("labels"), "outputs")
        return label_rows(self.problem, self.class_names, predictions, batch.get("labels"))

    def loss_weight(self, batch: ImagesBatch) -> Tensor | float:
        """Number of rows, or the weights of their classes."""
        return self.labels_weight(batch["labels"])

    def features(self, batch: ImagesBatch) -> Tensor:
        """Input of the head, averaged over positions; shape (rows, width)."""
        images = batch["images"].to(next(self.network.parameters()).dtype)
        own = getattr(self.network, "features", None)
        if own is not None:
            return own(images)
        hidden = self.network(images, output_hidden_states=True).hidden_states[-1]
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)
