"""The difference between the confidence of a classifier and its accuracy."""

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import classes, labels_of
from lit_ft.core.observing import output_of


class Calibration(FitCallback):
    r"""Expected calibration error of a classifier in validation and test.

    .. math:: \sum_b \frac{n_b}{n} \lvert \mathrm{accuracy}_b - \mathrm{confidence}_b \rvert

    over bins b of equal width of the largest softmax probability; torchmetrics computes it, over all processes. Reads
    the logits of the module's own forward passes: there is no further pass, and training does not change.

    Logs ``val/calibration_error`` and ``test/calibration_error``. Needs batches with labels (a key such as ``labels``,
    or the second of a pair) and a submodule whose output is logits of shape (rows, classes); a fit without them has no
    value, and is told so once.

    Source: the measure of A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023,
    arXiv 2302.06600, for grafted against fine-tuned networks.

    Args:
        output: Name of the submodule whose output is the logits.
        bins: Number of bins, at least 1.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([Calibration(output="model")], max_epochs=1)
        >>> round(trainer.callback_metrics["val/calibration_error"].item(), 1)
        0.2
    """

    needs = ("one of its class",)
    forgets = ("_unread",)

    def __init__(self, output: str = "network", bins: PositiveInt = 15) -> None:
        super().__init__()
        checked(locals())
        self.output, self.bins = output, bins
        self._observed: ExitStack | None = None
        self._outputs: list[Tensor] = []
        self._error: MulticlassCalibrationError | None = None
        self._unread = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a name that no submodule has, before the first step."""
        with output_of(pl_module, self.output):
            pass

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to record the output of the submodule."""
        self._stop()
        self._observed, self._error = ExitStack(), None
        self._outputs = self._observed.enter_context(output_of(pl_module, self.output))

    def on_validation_batch_start(self, *_: Any) -> None:
        """Drop outputs from before this batch."""
        self._outputs.clear()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch; the first output since its start is that of the module's step."""
        if self._unread:
            return
        try:
            self._add(batch)
        except ConfigError as error:
            if trainer.state.fn != "fit" or trainer.sanity_checking:
                raise
            self._unread, self._error = True, None  # a run that trains does not end for a measure that has no value
            rank_zero_warn(f"Calibration: no value in this fit: {error}")

    def _add(self, batch: Any) -> None:
        labels = classes(labels_of(batch))
        logits = self._outputs[0].detach().float() if self._outputs else None
        if logits is None or logits.ndim != 2 or len(logits) != len(labels) or int(labels.max()) >= logits.shape[1]:
            given = f"{self.output}, which gives {None if logits is None else tuple(logits.shape)}"
            raise ConfigError("output", given, f"a submodule that gives logits of shape ({len(labels)}, classes)")
        if self._error is None:
            self._error = MulticlassCalibrationError(logits.shape[1], self.bins).to(logits.device)
        self._error.update(logits.softmax(-1), labels)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the error."""
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As for validation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_test_batch_start(self, *_: Any) -> None:
        """As for validation."""
        self._outputs.clear()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As for validation."""
        self.on_validation_batch_end(*args, **kwargs)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the error."""
        self._log(pl_module, "test")

    def _log(self, module: pl.LightningModule, stage: str) -> None:
        self._stop()
        if self._error is not None:
            module.log(f"{stage}/calibration_error", self._error.compute())

    def _stop(self) -> None:
        if self._observed is not None:
            self._observed.close()
        self._observed = None

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop()
