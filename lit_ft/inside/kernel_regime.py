"""Whether fine-tuning stays so close to its start that the network learns as if it were linear in its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import NonNegativeFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import classes, labels_of, one_row, rows_in
from lit_ft.core.measurement import MeasuredRun, Measurement
from lit_ft.core.observing import outputs_on
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Selection
from lit_ft.inside.ntk import EmpiricalNTK, KernelPredictor, Kind


class KernelRegime(Measurement):
    r"""Compares a network in training with its linearisation at the initial weights, on fixed training rows.

    Logs, with outputs f, weights :math:`\theta` and gradients :math:`\nabla f` with respect to them:

    - ``kernel_regime/linearization_error`` :math:`\|f_t-f_0-\nabla f_0(\theta_t-\theta_0)\|/\|f_t-f_0\|`: near 0 where
      the network behaves linearly, 1 where the linear part explains nothing;
    - ``kernel_regime/feature_drift`` :math:`\|\nabla f_t-\nabla f_0\|/\|\nabla f_0\|`: near 0 where features are fixed;
    - ``kernel_regime/kernel_accuracy``: accuracy on validation rows of the kernel's solution on those training rows
      (targets 1 for the class and -1 for the others); constant in a run, computed before the first step;
    - ``kernel_regime/accuracy``: accuracy of the network on the same validation rows.

    Everything runs in evaluation mode and without autocast, one row at a time, and does not change the run. Memory:
    rows x outputs x trained weights, and a copy of all trained weights. Cost: a forward and ``outputs`` backward passes
    for each training row at each measurement, and for each validation row at the start.

    Needs batches with labels whose tensors have the rows along their first dimension, and whole weights on each process
    (no sharding). With several processes each measures its own rows, and the first one logs.

    Args:
        module: Name of the submodule whose output is f, of shape (1, outputs); None asks the module's ``predict_step``.
        kind: Kernel of ``kernel_accuracy``: ``sgd``, ``sign`` or ``asymmetric`` (paper: Adam).
        ridge: Ridge of the kernel's solution, 0 or more, in units of the mean of the kernel's diagonal.
        selection: Parameters to differentiate by, whole tensors; None takes all trained ones. Other trained parameters
            change the outputs but are not in the linearisation.
        every_n_steps: Optimizer steps between measurements, at least 1.
        num_batches: Batches for training and for validation, the first ones of epoch 0, at least 1. Paper: 16 to 512
            rows a class.

    Source: A kernel-based view of language model fine-tuning, 2022 (C2); princeton-nlp/LM-Kernel-FT at 81450f6.
    Deviations: targets are 1 and -1 for any number of classes, where the reference has 1 and 0 for several classes, and
    1 and -1 for the difference of the two outputs of two. The kernel between all pairs of outputs is the reference's,
    but it is solved by least squares with a ridge in units of its mean diagonal, for every ``kind`` (there by logistic
    regression unless asked otherwise, with a ridge in units of the largest singular value, and ``asymmetric`` by a
    system of its own, for two classes alone); :math:`f_0` is always subtracted from the targets (there on request).

    See also: :class:`~lit_ft.inside.ntk.EmpiricalNTK`.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> from lit_ft.testing import fit_foreign
        >>> linear = ImageClassifier({"config": {"model_type": "mlp", "depth": 0}})
        >>> regime = KernelRegime(every_n_steps=1)
        >>> _ = fit_foreign([regime], module=linear, data=GaussianClusters(rows=40, features=4), max_steps=2)
        >>> report = regime.report()
        >>> report["verdict"], round(report["linearization_error"], 2), report["feature_drift"]
        ('kernel regime', 0.0, 0.0)
    """

    prefix = "kernel_regime/"
    remembers = ("_start", "_last")

    def __init__(
        self,
        module: str | None = None,
        kind: Kind = "sgd",
        ridge: NonNegativeFloat = 0.0,
        selection: Selection | None = None,
        every_n_steps: PositiveInt = 10,
        num_batches: PositiveInt = 1,
    ) -> None:
        super().__init__()
        checked(locals())
        self.module, self.kind, self.ridge, self.selection = module, kind, ridge, selection
        self.every_n_steps, self.num_batches = every_n_steps, num_batches
        self._start: dict[str, Tensor] = {}

    def prepare(self, run: MeasuredRun) -> None:
        """Linearise at the initial weights; a resumed run takes them from its checkpoint."""
        module = run.module
        self._parameters = self._chosen(module)
        moving = _moving(module)
        if not self._start:
            self._start = {name: tensor.clone() for name, tensor in moving.items()}
        self._start = {name: self._start[name].to(tensor.device) for name, tensor in moving.items()}
        with _differentiable(module), self._at_start(module):
            self._rows, labels = self._own_rows(run, "train_dataloader")
            self._val_rows, self._val_labels = self._own_rows(run, "val_dataloader")

            def outputs(row: Any) -> Tensor:
                return self._outputs(module, row)

            self._kernel = EmpiricalNTK(outputs, self._rows, list(self._parameters.values()), self.kind)
            width = self._kernel.values.shape[1]
            if int(labels.max()) >= width:
                raise ConfigError(
                    "module", f"{width} outputs and class {int(labels.max())}", "an output for each class"
                )
            targets = 2.0 * F.one_hot(labels, width) - 1
            self._kernel_accuracy = 0.0
            if self._val_rows:
                said = KernelPredictor(self._kernel, targets, self.ridge).predict(self._val_rows)
                self._kernel_accuracy = self._share_right(said)

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """Compare the network with its linearisation."""
        with torch.autocast(run.module.device.type, enabled=False):
            now = torch.stack([self._outputs(run.module, row).flatten() for row in self._rows]).double()
            change = now - self._kernel.values.double()
            moved = [p - self._start[name] for name, p in self._parameters.items()]
            error = float((change - self._kernel.change(moved)).norm() / change.norm()) if change.any() else 0.0
            with torch.enable_grad():
                found = {"linearization_error": error, "feature_drift": self._kernel.drift(self._rows)}
            if self._val_rows:
                said = torch.stack([self._outputs(run.module, row).flatten() for row in self._val_rows])
                found |= {"kernel_accuracy": self._kernel_accuracy, "accuracy": self._share_right(said)}
        return found

    def _chosen(self, module: pl.LightningModule) -> dict[str, Tensor]:
        index = ParameterIndex(module)
        trained = {name: e.parameter for name, e in index.entries.items() if e.parameter.requires_grad}
        if self.selection is not None:
            choices = self.selection.select(module)
            parts = [name for name in trained if not isinstance(choices[name], bool)]
            if parts:
                raise ConfigError("selection", parts[0], "whole tensors")
            trained = {name: parameter for name, parameter in trained.items() if choices[name] is True}
        if not trained:
            raise ConfigError("selection", "no trained parameter", "at least one that requires a gradient")
        return dict(trained)

    def _own_rows(self, run: MeasuredRun, source: str) -> tuple[list[Any], Tensor]:
        """Batches of one row each, and their labels."""
        batches = list(islice(run.loader(source), self.num_batches))
        if not batches:
            return [], torch.zeros(0, dtype=torch.int64)
        labels = [labels_of(batch) for batch in batches]
        for batch, own in zip(batches, labels, strict=True):
            if own.ndim == 0 or rows_in(batch) not in (None, len(own)):
                raise ConfigError("data", f"{rows_in(batch)} rows, {tuple(own.shape)} labels", "a label for each row")
        rows = [one_row(b, i, len(own)) for b, own in zip(batches, labels, strict=True) for i in range(len(own))]
        return rows, classes(torch.cat(labels))

    def _outputs(self, module: pl.LightningModule, row: Any) -> Tensor:
        if self.module is None:
            found = module.predict_step(row, 0)
            if not isinstance(found, Tensor):
                raise ConfigError("module", None, f"a submodule's name: {type(module).__name__} predicts no outputs")
            return found
        return outputs_on(module, [self.module], row)[self.module][-1]

    def _share_right(self, said: Tensor) -> float:
        return float((said.argmax(1) == self._val_labels).double().mean())

    @contextmanager
    def _at_start(self, module: pl.LightningModule) -> Iterator[None]:
        """A context with the initial weights and buffers."""
        moving = _moving(module)
        now = {name: tensor.clone() for name, tensor in moving.items()}
        for name, tensor in moving.items():
            tensor.copy_(self._start[name])
        try:
            yield
        finally:
            for name, tensor in moving.items():
                tensor.copy_(now[name])

    def report(self) -> dict[str, Any]:
        """The last values, and whether the run was in the kernel regime: both distances below 0.3."""
        if not self._last:
            return {"verdict": "not measured"}
        near = max(self._last["linearization_error"], self._last["feature_drift"]) < 0.3
        return {"verdict": "kernel regime" if near else "features were learned", **self._last}


@contextmanager
def _differentiable(module: pl.LightningModule) -> Iterator[None]:
    with torch.enable_grad(), torch.autocast(module.device.type, enabled=False):
        yield


def _moving(module: pl.LightningModule) -> dict[str, Tensor]:
    """The tensors that training changes, without autograd: trained weights, and buffers."""
    trained = {
        name: e.parameter.detach() for name, e in ParameterIndex(module).entries.items() if e.parameter.requires_grad
    }
    return trained | dict(module.named_buffers())
