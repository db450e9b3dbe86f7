"""How well a linear map of the network's features solves the task."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import NonNegativeFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import classes, labels_of, vectors
from lit_ft.core.gathering import gather_rows
from lit_ft.core.measurement import MeasuredRun, Measurement
from lit_ft.core.observing import outputs_on, set_up
from lit_ft.inside.linear_probe import fit_linear_probe


class FeatureProbe(Measurement):
    r"""Fits a linear classifier on the features of training rows, and measures it on the validation rows.

    With ``data`` it reads the rows of that data module: how well the features serve a new task. With ``fit_on: val`` it
    is fitted on validation rows and measured on test rows: if these differ from training rows (a spurious feature no
    longer predicts the class), it shows what the features contain rather than what training rewards.

    At the start of the fit it measures the network before training: the baseline of frozen features, which fine-tuning
    has to beat on the same rows. Features are computed in evaluation mode without gradient; the run does not change: no
    random number is drawn, no buffer or metric changes.

    Labels stand in the batches under a name such as ``labels``, or second; they are class numbers, yes or no, or one of
    several marked. Of several loaders the first is read.

    Logs ``<name>/accuracy`` at each measurement; the report holds the first and the last, and the share of the
    most frequent class. Cost: one forward pass over ``num_rows`` training rows and the validation rows each time.

    Args:
        module: Name of the submodule whose output (averaged over tokens or positions) is the feature; None
            asks the model's ``features(batch)``.
        num_rows: Rows to fit on, the first of epoch 0; None takes all.
        max_eval_rows: Rows to measure on at most; None takes all.
        at_start: Measure before the first step.
        at_validation: Measure after each validation too, with new forward passes.
        penalty: Penalty on the squared weights of the classifier, in rows.
        fit_on: ``train`` (measured on validation rows) or ``val`` (measured on test rows).
        data: Another data module with the same kind of batches; None takes the trainer's own.
        name: Name in the log; each of several probes needs its own.

    See also: :func:`~lit_ft.inside.linear_probe.fit_linear_probe`.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> from lit_ft.testing import fit_foreign
        >>> method = ImageClassifier({"config": {"model_type": "mlp", "width": 8, "depth": 1}})
        >>> data = GaussianClusters(rows=200, classes=2, distance=9.0)
        >>> probe = FeatureProbe()
        >>> _ = fit_foreign([probe], module=method, data=data, max_steps=1)
        >>> probe.report()["first"]["accuracy"]  # random features of clusters that are far apart
        1.0
    """

    when = ("validation",)
    remembers = ("measured",)

    def __init__(
        self,
        module: str | None = None,
        num_rows: PositiveInt | None = 1000,
        max_eval_rows: PositiveInt | None = None,
        at_start: bool = True,
        at_validation: bool = False,
        penalty: NonNegativeFloat = 1.0,
        fit_on: Literal["train", "val"] = "train",
        data: pl.LightningDataModule | None = None,
        name: str = "feature_probe",
    ) -> None:
        super().__init__()
        checked(locals())
        self.module, self.num_rows, self.max_eval_rows = module, num_rows, max_eval_rows
        self.fit_on, self.data, self.name, self.prefix = fit_on, data, name, f"{name}/"
        self.at_start, self.at_validation, self.penalty = at_start, at_validation, penalty
        self.measured: list[dict[str, float]] = []

    @override
    def settled(self) -> tuple[str, ...]:
        return ("at_start",)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse two probes with one name, and set up ``data``."""
        super().setup(trainer, pl_module, stage)
        probes: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(probe, FeatureProbe) and probe.name == self.name for probe in probes) > 1:
            raise ConfigError("name", self.name, "a name for each probe")
        data = self.data or getattr(trainer, "datamodule", None)
        if data is not None and stage in ("fit", "validate"):
            needed = {"fit", "test"} if self.fit_on == "val" else {"fit"}
            for own in sorted(needed if self.data is not None else needed - {stage}):
                set_up(data, trainer, own)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the frozen features, unless the run was resumed."""
        if self.at_start and trainer.global_step == 0 and not self.measured:
            self.take(trainer, pl_module)
        if self.at_start and trainer.current_epoch == 0 and self.measured and self.measured[0]["step"] == 0:
            # Lightning repeats it to the end of the epoch; so after a resume
            pl_module.log(f"{self.prefix}accuracy", self.measured[0]["accuracy"], on_step=True, on_epoch=False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the present features."""
        if self.at_validation:
            super().on_validation_epoch_end(trainer, pl_module)

    @override
    def prepare(self, run: MeasuredRun) -> None:
        """Read a batch, where the first measurement is yet to come: what is not read is said at the start."""
        if self.at_validation and not self.at_start:
            self._both(run, 1, 1)

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """Fit the probe and measure its accuracy."""
        train, val = self._both(run, self.num_rows, self.max_eval_rows)
        number = int(max(train[1].max(), val[1].max())) + 1
        probe = fit_linear_probe(*train, num_classes=number, penalty=self.penalty)
        majority = torch.bincount(train[1], minlength=number).argmax()
        self.measured.append(
            {
                "step": run.step,
                "accuracy": probe.accuracy(*val),
                "majority": (val[1] == majority).double().mean().item(),
                "train_rows": len(train[1]),
                "eval_rows": len(val[1]),
            }
        )
        return {"accuracy": self.measured[-1]["accuracy"]}

    def _both(
        self, run: MeasuredRun, fitted: int | None, measured: int | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Features and class numbers of the rows to fit on, and of those to measure on."""
        sources = ("train_dataloader", "val_dataloader", "test_dataloader")[self.fit_on == "val" :]
        (train, own), (val, other) = self._collect(run, sources[0], fitted), self._collect(run, sources[1], measured)
        numbers = classes(torch.cat([own, other]))
        return (train, numbers[: len(own)]), (val, numbers[len(own) :])

    def _collect(self, run: MeasuredRun, source: str, limit: int | None) -> tuple[Tensor, Tensor]:
        """Features and labels of the first rows of a new loader, gathered from all processes."""
        found: list[tuple[Tensor, Tensor]] = []
        rows = 0
        for batch in run.loader(source, self.data):
            labels = labels_of(batch)
            found.append((self._features(run, batch, len(labels)).float(), labels))
            rows += len(found[-1][1])
            if limit is not None and rows * run.trainer.world_size >= limit:
                break
        if not found:
            raise ConfigError("callbacks", "FeatureProbe", f"data whose {source} has at least one batch")
        features, labels = (gather_rows(torch.cat(parts))[0].cpu()[:limit] for parts in zip(*found, strict=True))
        return features, labels

    def _features(self, run: MeasuredRun, batch: Any, rows: int) -> Tensor:
        module = run.module
        if self.module is not None:
            with run.precision():
                found = outputs_on(module, [self.module], batch)[self.module][-1]
            return vectors(found, self.module, rows)
        own = getattr(module, "features", None)
        if own is None:
            raise ConfigError("module", None, f"a module's name: {type(module).__name__} has no features(batch)")
        with run.precision():
            found = own(batch)
        return vectors(found, "features(batch)", rows)

    @property
    def state_key(self) -> str:
        """One state for each name and probed module."""
        return f"FeatureProbe{{name={self.name}, module={self.module}}}"

    def report(self) -> dict[str, Any]:
        """The first and the last measurement."""
        return {"first": self.measured[0], "last": self.measured[-1]} if self.measured else {}
