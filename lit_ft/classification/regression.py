"""Predict a number from a vector of numbers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.regression import MeanAbsoluteError

from lit_ft.classification.batches import NumbersBatch
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_fact
from lit_ft.core.method import Method, Output
from lit_ft.core.network import Network


class Regression(Method):
    r"""Squared error of one number: :math:`\frac{1}{n}\sum_i (f(x_i) - y_i)^2`, over the rows of the window.

    Reads :class:`NumbersBatch`. Logs ``loss``, and in validation and test ``absolute_error``. Metrics read
    predictions and targets of shape (rows,).

    Args:
        network: ``{config: {model_type: mlp, width: ..., depth: ..., activation: ...}}``; depth 0 is a linear map.
        input_shape: Shape of one row; None takes it from the data module.
        **kwargs: As in :class:`Method`.

    See also: :class:`~lit_ft.methods.ImageClassifier`, :class:`~lit_ft.data.NoisyLinear`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import NoisyLinear
        >>> config = {"model_type": "mlp", "depth": 0}
        >>> model = Regression({"config": config}, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        >>> trainer = pl.Trainer(fast_dev_run=40, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, NoisyLinear(rows=1280, noise=0.0))  # the targets are linear in the inputs
        >>> trainer.callback_metrics["val/absolute_error"] < 0.01
        tensor(True)
    """

    batch: ClassVar[type] = NumbersBatch
    facts: ClassVar[tuple[str, ...]] = ("input_shape",)

    def __init__(self, network: Network, input_shape: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        if self.spec is not None and (self.spec.config or {}).get("model_type") != "mlp":
            raise ConfigError("network", self.spec.plain(), "config: {model_type: mlp, ...}")
        self.input_shape = input_shape

    def build_network(self) -> nn.Module:
        """The network with one output."""
        from lit_ft.models.images import image_classifier

        assert self.spec is not None
        return image_classifier(self.spec, 1, tuple(data_fact(self, "input_shape")))

    def configure_metrics(self) -> dict[str, Metric]:
        """Mean absolute error."""
        return {"absolute_error": MeanAbsoluteError()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers of shape (rows,)."""
        return self.network(inputs).squeeze(-1)

    def compute(self, batch: NumbersBatch) -> Output:
        """Mean squared error over the rows."""
        predictions = self(batch["inputs"]).float()
        loss = (predictions - batch["targets"]).square().mean()
        return Output(loss, predictions=predictions, targets=batch["targets"])

    def prediction_rows(self, batch: NumbersBatch, predictions: Tensor) -> list[dict[str, float]]:
        """The number of each row, and the expected one."""
        pairs = zip(predictions.tolist(), batch["targets"].tolist(), strict=True)
        return [{"predicted": predicted, "expected": expected} for predicted, expected in pairs]

    def loss_weight(self, batch: NumbersBatch) -> float:
        """Number of rows."""
        return float(len(batch["targets"]))
