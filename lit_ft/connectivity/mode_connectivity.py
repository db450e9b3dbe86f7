"""A trained curve of low loss between two networks."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_ft.connectivity.classifier_pair import ClassifierPair, Ends, each_once
from lit_ft.connectivity.paths import Path, linear_path
from lit_ft.connectivity.profile import member
from lit_ft.core.checks import Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.weights import weights_of
from lit_ft.vision.batch import ImagesBatch


class ModeConnectivity(ClassifierPair):
    r"""Minimises the mean loss on a curve between two fixed networks: :math:`E_{t \sim U[0, 1]}\, \ell(w(t))`.

    The inner control points of a Bezier curve or polygonal chain are trained, with one random t for each batch. They
    start on the line between the ends. The ends are ``start`` and ``end``, or come from a run of
    :class:`ClassifierPair` (``lit-ft fit --from RUN``).

    Reads :class:`ImagesBatch`. Validation and test measure the network in the middle of the curve, with batch-norm
    statistics estimated there. The test logs ``test/curve_max`` and ``test/curve_barrier``, and what
    :class:`ClassifierPair` logs. Cost: that of one network per step; memory for all control points.

    Source: Garipov et al., 2018, the method that "Explaining landscape connectivity of low-cost solutions for
    multilayer nets", 2019, explains. Deviation: weight decay is the optimizer's, on the control points, where the
    authors penalise w(t).

    Args:
        network: As for :class:`~lit_ft.methods.ImageClassifier`; the structure of both ends.
        start: Run folder, checkpoint or ``.safetensors`` of the network at t = 0; None together with ``end``.
        end: The same at t = 1.
        curve: ``bezier`` or ``chain``.
        num_points: Control points, the ends included, at least 3 (paper: 3).
        **kwargs: As in :class:`ClassifierPair`.

    See also: :class:`~lit_ft.methods.ClassifierPair`, :class:`~lit_ft.connectivity.paths.Path`.

    Example:
        >>> model = ModeConnectivity({"config": {"model_type": "mlp", "depth": 0}}, num_classes=2, input_shape=[4])
        >>> model.configure_model()
        >>> model.path().coefficients(0.5)  # of the control points in the middle of a quadratic Bezier curve
        [0.25, 0.5, 0.25]
        >>> list(model.trainable_parameters())  # the ends are fixed
        ['network.inner.0.head.weight', 'network.inner.0.head.bias']
    """

    def __init__(
        self,
        network: Network,
        start: str | None = None,
        end: str | None = None,
        curve: Literal["bezier", "chain"] = "bezier",
        num_points: Annotated[int, Range(low=3)] = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        if (start is None) != (end is None):
            raise ConfigError("start, end", (start, end), "both, or none of them")
        self.start, self.end, self.curve, self.num_points = start, end, curve, num_points
        self._middle: list[nn.Module] = []  # a list, so that it is no submodule

    def build_network(self) -> nn.Module:
        """The frozen ends, and the inner points on the line between them."""
        pair = super().build_network()
        assert isinstance(pair, Ends)
        for argument, source, end in (("start", self.start, pair.first), ("end", self.end, pair.last)):
            if source is not None:
                found = weights_of(argument, source, ParameterIndex(end))
                end.load_state_dict(found, strict=False)
        pair.requires_grad_(False)
        pair.inner = nn.ModuleList(copy.deepcopy(pair.first) for _ in range(self.num_points - 2))
        pair.inner.requires_grad_(True)
        _straighten(pair)
        return pair

    def on_fit_start(self) -> None:
        """Put the inner points between ends that another run gave; a resumed run keeps its own."""
        if from_its_start(self.trainer):
            _straighten(self.ends)

    def path(self) -> Path:
        """The curve."""
        inner = self.ends.inner
        assert isinstance(inner, nn.ModuleList)
        points = [dict(point.named_parameters()) for point in (self.ends.first, *inner, self.ends.last)]
        return Path(points, self.curve == "bezier")

    def paths(self) -> dict[str, Path]:
        """The curve, and the paths that need no training."""
        return {"curve": self.path(), **super().paths()}

    def forward(self, images: Tensor) -> Tensor:
        """Logits at a random t in training, else in the middle of the curve; shape (rows, classes)."""
        if not self.training:
            return (self._middle[0] if self._middle else self._settled())(images)
        # copies, so that batch statistics along the curve do not change the buffers of the first end
        buffers = {name: buffer.clone() for name, buffer in self.ends.first.named_buffers()}
        return functional_call(self.ends.first, {**self.path().at(torch.rand(()).item()), **buffers}, images)

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean loss over the rows, at one t."""
        logits = self(batch["images"]).float()
        loss = self.row_losses(logits, batch["labels"]).mean()
        return Output(loss, predictions=logits, targets=batch["labels"])

    def _settled(self) -> nn.Module:
        data = data_of(self)
        batches = each_once(data, "train") if data is not None else ()
        return member(self.ends.first, self.path().at(0.5), batches, self._losses)

    def on_validation_epoch_start(self) -> None:
        """Build the network in the middle of the curve."""
        super().on_validation_epoch_start()
        self._middle = [self._settled()]

    def on_test_epoch_start(self) -> None:
        """Build the network in the middle of the curve."""
        super().on_test_epoch_start()
        self._middle = [self._settled()]

    def on_validation_epoch_end(self) -> None:
        """Log ``val/...``, and free the network in the middle."""
        super().on_validation_epoch_end()
        self._middle = []

    def on_test_epoch_end(self) -> None:
        """Log ``test/...`` and the paths, and free the network in the middle."""
        super().on_test_epoch_end()
        self._middle = []


@torch.no_grad()
def _straighten(pair: Ends) -> None:
    """Put the inner points at equal distances on the line between the ends."""
    line = linear_path(dict(pair.first.named_parameters()), dict(pair.last.named_parameters()))
    inner = list(pair.inner)  # type: ignore[arg-type]
    for number, point in enumerate(inner, start=1):
        for name, parameter in point.named_parameters():
            parameter.copy_(line.at(number / (len(inner) + 1))[name])
