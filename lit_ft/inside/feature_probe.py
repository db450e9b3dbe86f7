"""How much of the task can be read off the network's features by a linear map."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lit_ft.core.anew import begins_anew
from lit_ft.core.errors import ConfigError
from lit_ft.core.gathering import gather_rows
from lit_ft.core.method import Method
from lit_ft.core.observing import labels_of, output_of, own_loader, set_up
from lit_ft.core.passes.second_pass import silent
from lit_ft.inside.linear_probe import fit_linear_probe


class FeatureProbe(Callback):
    r"""Fits a linear classifier on the features of training rows, and measures it on the validation rows.

    With ``data`` it reads those rows instead of the training's: what a new task finds in the features. With
    ``fit_on: val`` it is fitted on validation rows and measured on test rows: where these differ from training (a
    spurious feature is no longer one), that says what the features hold, and not what training rewards.

    At the start of the fit it measures the network as it was before: the baseline of frozen features, which fine-tuning
    has to beat on the same rows. Features are taken in eval mode without gradient; the run itself is left untouched: no
    random number is drawn, no buffer or metric changes. See :func:`lit_ft.inside.linear_probe.fit_linear_probe`.

    Logs ``<name>/accuracy`` at each measurement; the report holds the first and the last, and the share of the
    most frequent class. Cost: one forward pass over ``num_rows`` training rows and the validation rows each time.

    Args:
        module: Name of the submodule whose output (averaged over tokens or positions) is the feature; None
            asks the model's ``features(batch)``.
        num_rows: Rows to fit on, the first of epoch 0; None takes all.
        max_eval_rows: Rows to measure on at most; None takes all.
        at_start: Measure before the first step.
        at_validation: Measure after each validation too; needs the forward passes again.
        penalty: Of the squared weights of the classifier, in rows.
        fit_on: ``train`` (measured on validation rows) or ``val`` (measured on test rows).
        data: Another data module of the same batches; None takes that of the training.
        name: In the log; several probes need one each.
    """

    def __init__(
        self,
        module: str | None = None,
        num_rows: int | None = 1000,
        max_eval_rows: int | None = None,
        at_start: bool = True,
        at_validation: bool = False,
        penalty: float = 1.0,
        fit_on: Literal["train", "val"] = "train",
        data: pl.LightningDataModule | None = None,
        name: str = "feature_probe",
    ) -> None:
        for limit, value in (("num_rows", num_rows), ("max_eval_rows", max_eval_rows)):
            if value is not None and value < 1:
                raise ConfigError(limit, value, "at least 1, or null")
        if penalty < 0:
            raise ConfigError("penalty", penalty, "0 or more")
        if fit_on not in ("train", "val"):
            raise ConfigError("fit_on", fit_on, "train or val")
        self.module, self.num_rows, self.max_eval_rows = module, num_rows, max_eval_rows
        self.fit_on, self.data, self.name = fit_on, data, name
        self.at_start, self.at_validation, self.penalty = at_start, at_validation, penalty
        self.measured: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget another fit; set up the other data; refuse two probes that would log under one name."""
        probes: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(probe, FeatureProbe) and probe.name == self.name for probe in probes) > 1:
            raise ConfigError("name", self.name, "a name for each probe")
        if begins_anew(trainer, stage):
            self.measured = []
        data = self.data or getattr(trainer, "datamodule", None)
        if data is not None and stage in ("fit", "validate"):
            needed = {"fit", "test"} if self.fit_on == "val" else {"fit"}
            for own in sorted(needed if self.data is not None else needed - {stage}):
                set_up(data, trainer, own)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the frozen features; not again when a run is resumed."""
        if self.at_start and trainer.global_step == 0 and not self.measured:
            self._measure(trainer, pl_module)
            pl_module.log(f"{self.name}/accuracy", self.measured[-1]["accuracy"], on_step=True, on_epoch=False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the features as they are now."""
        if self.at_validation and not trainer.sanity_checking:
            self._measure(trainer, pl_module)
            pl_module.log(f"{self.name}/accuracy", self.measured[-1]["accuracy"])

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with silent(trainer, module), torch.no_grad():
            module.eval()
            sources = ("train_dataloader", "val_dataloader", "test_dataloader")[self.fit_on == "val" :]
            train = self._collect(trainer, module, sources[0], self.num_rows)
            val = self._collect(trainer, module, sources[1], self.max_eval_rows)
        classes = int(max(train[1].max(), val[1].max())) + 1
        probe = fit_linear_probe(*train, num_classes=classes, penalty=self.penalty)
        majority = torch.bincount(train[1], minlength=classes).argmax()
        self.measured.append(
            {
                "step": trainer.global_step,
                "accuracy": probe.accuracy(*val),
                "majority": (val[1] == majority).double().mean().item(),
                "train_rows": len(train[1]),
                "eval_rows": len(val[1]),
            }
        )

    def _collect(
        self, trainer: pl.Trainer, module: pl.LightningModule, source: str, limit: int | None
    ) -> tuple[Tensor, Tensor]:
        """Features and labels of the first rows of a loader of our own, on every process those of all."""
        found: list[tuple[Tensor, Tensor]] = []
        rows = 0
        for batch in own_loader(trainer, module, source, self.data):
            found.append((self._features(module, batch).float(), labels_of(batch)))
            rows += len(found[-1][1])
            if limit is not None and rows * trainer.world_size >= limit:
                break
        if not found:
            raise ConfigError("callbacks", "FeatureProbe", f"data whose {source} has at least one batch")
        features, labels = (gather_rows(torch.cat(parts))[0].cpu()[:limit] for parts in zip(*found, strict=True))
        return features, labels

    def _features(self, module: pl.LightningModule, batch: Any) -> Tensor:
        if self.module is None:
            own = getattr(module, "features", None)
            if own is None:
                raise ConfigError("module", None, f"a module's name: {type(module).__name__} has no features(batch)")
            return own(batch)
        with output_of(module, self.module) as outputs:
            module.compute(batch) if isinstance(module, Method) else module.validation_step(batch, 0)
        hidden = outputs[-1]
        return hidden.flatten(1, -2).mean(1) if hidden.ndim > 2 else hidden

    @property
    def state_key(self) -> str:
        """One state for each name and module that is probed."""
        return f"FeatureProbe{{name={self.name}, module={self.module}}}"

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"measured": [dict(entry) for entry in self.measured]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the list of measurements."""
        self.measured = [dict(entry) for entry in state_dict["measured"]]

    def report(self) -> dict[str, Any]:
        """The first and the last measurement."""
        return {"first": self.measured[0], "last": self.measured[-1]} if self.measured else {}
