"""Performance on old tasks while a new one is learned."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_ft.core.batches import kind_of
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import rows_in
from lit_ft.core.measurement import MeasuredRun, Measurement, pick
from lit_ft.core.method import Method
from lit_ft.core.observing import TransferredBatches, arguments, loaders_in, set_up
from lit_ft.core.passes.means import WeightedMeans
from lit_ft.core.passes.second_pass import without_trace


class Forgetting(Measurement):
    """Evaluates other data beside the training data: at the start of the fit, every n steps, and at its end.

    Each data module is evaluated with the module's own loss and metrics: ``compute`` and ``new_metrics`` of a
    ``Method``; for another LightningModule the loss that its ``validation_step`` returns, and the values it logs.
    Training does not change: randomness, buffers, metrics, training mode and logged values are as without it. The
    callback has its own loaders.

    A run that learns more slowly also forgets less: compare runs at the same loss on the new data, with
    :func:`~lit_ft.inside.continual.at_matched_loss`; pass the new data here too, and the report has both curves.

    With ``every_n_steps`` it logs ``forgetting/<name>/loss`` and ``forgetting/<name>/<metric>``: the latest values in
    every row, and the last ones at the end. The report has every evaluation, the first and last one included. Cost: one
    forward pass over the data (or ``limit_batches``) each time.

    Args:
        data: Data modules by name of the task, with batches of the kind that the module reads.
        every_n_steps: Optimizer steps between two evaluations; None evaluates at the start and the end only.
        stage: Whether validation (``val``) or test (``test``) rows are read.
        limit_batches: Number of batches of each task, of each of its loaders; None takes all.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> from lit_ft.testing import fit_foreign
        >>> linear = {"config": {"model_type": "mlp", "depth": 0}}
        >>> method = ImageClassifier(linear, optimizer=lambda weights: torch.optim.SGD(weights, lr=1.0))
        >>> forgetting = Forgetting({"old": GaussianClusters(rows=100, seed=1)})
        >>> _ = fit_foreign([forgetting], module=method, data=GaussianClusters(rows=100, seed=0), max_steps=2)
        >>> forgetting.report()["old"]["change"]["loss"] > 0
        True
    """

    when = ("start", "end")
    prefix = "forgetting/"

    def __init__(
        self,
        data: dict[str, pl.LightningDataModule],
        every_n_steps: PositiveInt | None = None,
        stage: Literal["val", "test"] = "val",
        limit_batches: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        if not data:
            raise ConfigError("data", data, "at least one data module, by the name of its task")
        self.data, self.every_n_steps, self.stage, self.limit_batches = data, every_n_steps, stage, limit_batches
        self._loaders: dict[str, Any] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("data", "stage", "limit_batches") if self.steps else ()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set up the data modules, and refuse those whose batches the module does not read."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        for name, data in self.data.items():
            kinds = kind_of(pl_module), kind_of(data)
            if all(kinds) and kinds[0] != kinds[1]:
                raise ConfigError(f"data.{name}", type(data).__name__, f"a data module of {kinds[0]}, not {kinds[1]}")
            set_up(data, trainer, "test" if self.stage == "test" else "fit")

    @override
    def logs_end(self) -> bool:
        return self.every_n_steps is not None

    def measure(self, run: MeasuredRun) -> dict[str, dict[str, float]]:
        """Loss and metrics of each task."""
        return {name: self._evaluate(run.trainer, run.module, name) for name in self.data}

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, name: str) -> dict[str, float]:
        with without_trace(trainer, module):  # no task draws from the random numbers of another one
            if name not in self._loaders:
                data = self.data[name]
                found = data.test_dataloader() if self.stage == "test" else data.val_dataloader()
                self._loaders[name] = loaders_in(found)
            evaluator = _OfMethod(module) if isinstance(module, Method) else _OfForeign(module)
            for place, loader in enumerate(self._loaders[name]):
                batches = TransferredBatches(trainer, loader, self.data[name])
                for number, batch in enumerate(islice(batches, self.limit_batches)):
                    with trainer.precision_plugin.val_step_context():
                        evaluator.add(batch, number, place)

            def over_ranks(tensor: Tensor) -> Tensor:
                if trainer.world_size == 1:
                    return tensor
                return trainer.strategy.reduce(tensor.to(module.device), reduce_op="sum")  # type: ignore[return-value]

            _, means = evaluator.means.total(over_ranks)
            results = {key: float(value) for key, value in means.items()}
            results |= {key: float(metric.compute()) for key, metric in evaluator.metrics.items()}
        if not results:
            allowed = f"{self.stage} rows that count, and a module whose validation_step logs or returns"
            raise ConfigError(f"data.{name}", type(self.data[name]).__name__, allowed)
        return results

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Release the loaders."""
        self._loaders = {}

    def report(self) -> dict[str, Any]:
        """First and last values of each task, their difference, and the curves."""
        tasks = {}
        for name, curves in self.history.items():
            tasks[name] = {
                "start": pick(curves, 0),
                "end": pick(curves, -1),
                "change": {key: values[-1] - values[0] for key, values in curves.items()},
                "curves": curves,
            }
        return {"steps": self.steps, **tasks}

    def plots(self, history: Mapping[str, Any]) -> dict[str, Any]:
        """The loss on each task over the steps."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for name, curves in self.history.items():
            if "loss" in curves:
                axes.plot(self.steps, curves["loss"], marker="o", label=name)
        axes.set(xlabel="optimizer step", ylabel="loss")
        axes.legend()
        return {"forgetting": figure}


class _OfMethod:
    """Means and metrics of a ``Method`` over batches."""

    def __init__(self, module: Method) -> None:
        self.module, self.means = module, WeightedMeans()
        metrics = {name: metric.to(module.device) for name, metric in module.new_metrics().items()}
        self.all = metrics
        self.metrics: dict[str, Metric] = {}

    def add(self, batch: Any, number: int, loader: int) -> None:
        output = self.module.compute(batch)
        self.means.add(self.module.loss_weight(batch), {"loss": output.loss, **output.scalars})
        if output.predictions is not None:
            for metric in self.all.values():
                metric.update(output.predictions, output.targets)
            self.metrics = self.all


class _OfForeign:
    """Means of the values that the ``validation_step`` of another LightningModule returns and logs, over batches."""

    def __init__(self, module: pl.LightningModule) -> None:
        self.module, self.means = module, WeightedMeans()
        self.metrics: dict[str, Metric] = {}
        self.logged: dict[str, Any] = {}
        self.size: int | None = None
        for child in module.modules():
            if isinstance(child, Metric):
                child.reset()
        module.__dict__.update(log=self._log, log_dict=self._log_dict)  # in the place of without_trace's own

    def _log(self, name: str, value: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        self.logged[name.removeprefix("val/").removeprefix("val_")] = value
        self.size = batch_size or self.size

    def _log_dict(self, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in values.items():
            self._log(name, value, *args, **kwargs)

    def add(self, batch: Any, number: int, loader: int) -> None:
        self.logged, self.size = {}, None
        output = self.module.validation_step(*arguments(self.module.validation_step, batch, number, loader))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        numbers = {"loss": loss} if isinstance(loss, Tensor) and loss.numel() == 1 else {}
        for name, value in self.logged.items():
            if isinstance(value, Metric):
                self.metrics[name] = value
            else:
                numbers[name] = torch.as_tensor(value, dtype=torch.float64)
        if numbers:
            self.means.add(float(self.size or rows_in(batch) or 1), numbers)
