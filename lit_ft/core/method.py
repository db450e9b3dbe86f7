"""The base of every method: a LightningModule that defines what is optimised, and nothing else."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.mixins import HyperparametersMixin
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision
from lightning.pytorch.utilities.parsing import collect_init_args
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from lit_ft.core.adapters import begun, fixed_norms, refuse_untrained
from lit_ft.core.batches import kind_of
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import FACTS, data_of, restore_facts
from lit_ft.core.frozen_base import FrozenBase
from lit_ft.core.fused import fused
from lit_ft.core.hyperparameters import is_plain
from lit_ft.core.network import Network
from lit_ft.core.optimizers import adamw, made
from lit_ft.core.passes.means import NewestMeans, WeightedMeans
from lit_ft.core.passes.window import window_ends, window_starts
from lit_ft.core.schedules import Schedule
from lit_ft.core.trust import reading


@dataclass
class Output:
    """The results of a method on one batch.

    Args:
        loss: Mean loss over the batch; ``loss_weight(batch)`` is the denominator of that mean.
        predictions: First argument of ``update`` of each metric in validation and test.
        targets: Second argument of ``update``: the true values for ``predictions``.
        scalars: Further means over the same denominator, logged as ``<stage>/<key>``.

    Example:
        >>> Output(torch.tensor(0.5), scalars={"accuracy": 1.0})
        Output(loss=tensor(0.5000), predictions=None, targets=None, scalars={'accuracy': 1.0})
    """

    loss: Tensor
    predictions: Tensor | None = None
    targets: Tensor | None = None
    scalars: Mapping[str, Tensor | float] = field(default_factory=dict)


class Method(pl.LightningModule):
    r"""What is optimised: a network and a loss. A subclass implements ``build_network`` and ``compute``.

    The gradient of an accumulation window with micro-batches i, mean losses :math:`\ell_i` and weights
    :math:`w_i` = ``loss_weight(batch_i)`` is that of :math:`\sum_i w_i \ell_i / \sum_i w_i`, over all ranks, whatever
    the sizes of the micro-batches and however short the last window. (Lightning alone takes the mean of the means.)
    It is complete before the first ``on_before_optimizer_step`` is called.

    Logs ``train/loss`` (the mean of the window), ``val/loss``, ``test/loss``, ``val/<metric>``, ``test/<metric>``.

    Args:
        network: Where the network comes from. In Python also a ready ``torch.nn.Module``; it is then no
            hyper-parameter, and ``load_from_checkpoint`` needs it as an argument.
        optimizer: Makes the optimizer from parameters. Parameters of one dimension (biases, norms) get no weight decay.
            Adam, AdamW, SGD and Adagrad run torch's fused kernel unless ``fused`` or ``foreach`` is set.
        schedule: Learning-rate schedule; None keeps the rate constant.
        metrics: Metrics of validation and test by logged name. They replace the method's own metrics, and a mean of the
            same name; ``{}`` logs none. Each stage updates copies with ``predictions`` and ``targets`` of
            :class:`Output`.

    Example:
        >>> from lit_ft.data import NoisyLinear
        >>> class AbsoluteError(Method):
        ...     def compute(self, batch):
        ...         errors = self.network(batch["inputs"]).squeeze(-1) - batch["targets"]
        ...         return Output(errors.abs().mean())
        ...
        ...     def loss_weight(self, batch):
        ...         return len(batch["targets"])
        >>> trainer = pl.Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(AbsoluteError(nn.Linear(8, 1)), NoisyLinear(features=8))
        >>> sorted(trainer.callback_metrics)
        ['train/loss', 'val/loss']
    """

    batch: ClassVar[type | None] = None
    """The ``TypedDict`` of the batches that it reads; a data module with other batches is refused."""
    facts: ClassVar[tuple[str, ...]] = ()
    """Attributes that are taken from the data module where the argument is None, such as ``num_classes``."""

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerCallable = adamw,
        schedule: Schedule | None = None,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self._save_plain_hyperparameters()
        self.spec: Network | None = None
        self.network: Any = None  # a module from configure_model on
        self._ready: list[nn.Module] = []  # a list hides a module given from Python until configure_model
        if isinstance(network, nn.Module):
            self._ready.append(network)
        elif network is None:
            raise ConfigError("network", None, "a path, a config, or the module that this checkpoint was trained with")
        else:
            self.spec = Network.of(network)
            if "network" not in self.hparams:
                self.save_hyperparameters({"network": self.spec.plain()})
        for name in metrics or ():
            if name == "loss" or "." in name:
                raise ConfigError("metrics", name, "a name without a dot, other than loss")
        if not callable(optimizer):
            raise ConfigError("optimizer", optimizer, "a class or function that makes an optimizer")
        self.optimizer, self.schedule, self._metrics = optimizer, schedule, metrics
        self._tokenizer: Any = None
        self._base, self._scales, self._reached = FrozenBase(), list[nn.Parameter](), False
        self._window, self._means, self._newest = WeightedMeans(), WeightedMeans(), NewestMeans()
        self._scale: Tensor | float | None = None  # None is exactly 1, not 1 to rounding
        self._rescale: Tensor | None = None

    def _save_plain_hyperparameters(self) -> None:
        if _given_hyperparameters.get() is not None:  # built by the command: the configuration, plain as it is
            self.save_hyperparameters()
            return
        given: dict[str, Any] = {}
        frame = inspect.currentframe()
        if frame is not None and frame.f_back is not None:
            for arguments in collect_init_args(frame.f_back, [], classes=(HyperparametersMixin,)):
                given |= arguments
        self.save_hyperparameters({name: value for name, value in given.items() if is_plain(value)})

    # what a subclass defines

    def build_network(self) -> nn.Module:
        """Build the network that ``self.spec`` describes."""
        raise NotImplementedError(f"{type(self).__name__} defines build_network()")

    def build_tokenizer(self) -> Any:
        """Build the tokenizer that ``self.spec`` describes; None where there is no text."""
        return None

    def after_build(self, network: nn.Module) -> None:
        """Called once, just after the network was built: check it, or make further parts.

        Several networks that train together are one module that ``build_network`` returns, such as ``Members``; a
        network that does not train belongs to ``frozen_parts``.
        """

    def frozen_parts(self) -> Iterable[nn.Module]:
        """Parts that stay in evaluation mode while the others train: no dropout, fixed batch-norm statistics."""
        return ()

    def compute(self, batch: Any) -> Output:
        """Compute the mean loss over a batch, and what metrics need. Does not log."""
        raise NotImplementedError(f"{type(self).__name__} defines compute(batch)")

    def loss_weight(self, batch: Any) -> Tensor | float:
        """The denominator of the mean loss over a batch: rows, target tokens ..."""
        return 1.0

    def configure_metrics(self) -> dict[str, Metric]:
        """The method's own metrics over predictions and targets, where ``metrics`` is None."""
        return {}

    # what all methods share

    def new_metrics(self) -> dict[str, Metric]:
        """The metrics of an evaluation before its first batch: copies of ``metrics``, else the method's own."""
        if self._metrics is None:
            return self.configure_metrics()
        return {name: metric.clone() for name, metric in self._metrics.items()}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the network; loading it needs no weights."""
        if self._tokenizer is None:
            self._tokenizer = self.build_tokenizer()
        return self._tokenizer

    def setup(self, stage: str) -> None:
        """Refuse a data module whose batches this method does not read."""
        data = data_of(self)
        own, theirs = kind_of(self), kind_of(data)
        if own and theirs and own != theirs:
            allowed = f"a data module of {own} for {type(self).__name__}, not {theirs}"
            raise ConfigError("data", type(data).__name__, allowed)

    def configure_model(self) -> None:
        """Build the network, the parts beside it and the metrics, once; a subclass implements the hooks.

        Under half or double precision the network is converted here, so that the fingerprint of a frozen base is that
        of the converted weights: Lightning itself converts them only after a checkpoint was checked.
        """
        if self.network is not None:
            return
        self.network = self._ready.pop() if self._ready else self.build_network()
        if self._trainer is not None and isinstance(self.trainer.precision_plugin, (HalfPrecision, DoublePrecision)):
            self.network = self.trainer.precision_plugin.convert_module(self.network)
        metrics = {stage: nn.ModuleDict(self.new_metrics()) for stage in ("val", "test")}  # type: ignore[arg-type]
        self.stage_metrics = nn.ModuleDict(metrics)
        if self.spec is not None and self.spec.path is not None:
            self._base.remember(self.network)
        self._scales = begun(self.network)
        self.after_build(self.network)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.network is not None:
            for part in (*self.frozen_parts(), *fixed_norms(self.network)):
                part.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Free the gradient of the last window before the forward pass; Lightning does so after it."""
        if window_starts(self.trainer, batch_idx):
            for parameter in self.parameters():
                parameter.grad = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean loss of a micro-batch; logs the mean of the window at its end."""
        output = self.compute(batch)
        if self._trainer is not None and self._trainer.training:
            self._follow_window(output, self.loss_weight(batch), batch_idx)
        return output.loss

    def _follow_window(self, output: Output, weight: Tensor | float, batch_idx: int) -> None:
        trainer = self.trainer
        if window_starts(trainer, batch_idx):
            self._window, self._newest = WeightedMeans(), self._newest if batch_idx else NewestMeans()
        self._window.add(weight, {"loss": output.loss, **output.scalars})
        self._scale, self._rescale = weight, None
        if not window_ends(trainer, batch_idx):
            return
        total, means = self._window.means(self._sum_over_ranks)
        parts = trainer.accumulate_grad_batches
        # Lightning divides each loss by the parts, and ranks are averaged: the true mean needs parts * ranks / total
        correction = torch.where(total == 0, 0.0, parts * trainer.world_size / total)
        if parts == 1:
            self._scale = weight * correction.to(output.loss.dtype)
            if trainer.world_size == 1:
                self._scale = None
        else:
            self._rescale = correction.to(output.loss.dtype)
        for key, value in self._newest.take(total, means).items():
            self.log(f"train/{key}", value.float(), prog_bar=key == "loss", batch_size=1)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward of the loss times its share in the window."""
        super().backward(loss if self._scale is None else loss * self._scale, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Turn the sum over the window into its mean, before any callback reads the gradient."""
        if not self._reached:
            self._reached = True
            refuse_untrained(self.network)
        if self._rescale is None:
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, self._rescale.to(gradients[0].device))
        self._rescale = None

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        if self._trainer is None or self.trainer.world_size == 1:
            return tensor
        return self.trainer.strategy.reduce(tensor.to(self.device), reduce_op="sum")  # type: ignore[return-value]

    def _evaluate(self, batch: Any, stage: str) -> Output:
        output = self.compute(batch)
        self._means.add(self.loss_weight(batch), {"loss": output.loss, **output.scalars})
        if output.predictions is None and self._metrics:
            raise ConfigError("metrics", list(self._metrics), "{}: this method gives no predictions")
        if output.predictions is not None:
            for metric in self.stage_metrics[stage].values():  # type: ignore[operator, union-attr]
                metric.update(output.predictions, output.targets)
        return output

    def _start_evaluation(self) -> None:
        self._means = WeightedMeans()

    def _finish_evaluation(self, stage: str) -> None:
        _, means = self._means.total(self._sum_over_ranks)
        metrics: Any = self.stage_metrics[stage]
        for key, value in means.items():
            if key not in metrics:
                self.log(f"{stage}/{key}", value.float(), prog_bar=key == "loss", rank_zero_only=False, sync_dist=False)
        for name, metric in metrics.items():
            if metric.update_called:
                if means:  # else no row counted
                    self.log(f"{stage}/{name}", metric.compute(), prog_bar=True)
                metric.reset()

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of losses."""
        self._start_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Add one batch to ``val/...``."""
        return self._evaluate(batch, "val").loss

    def on_validation_epoch_end(self) -> None:
        """Log ``val/...``."""
        self._finish_evaluation("val")

    def on_test_epoch_start(self) -> None:
        """Reset the sums of losses."""
        self._start_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Add one batch to ``test/...``."""
        return self._evaluate(batch, "test").loss

    def on_test_epoch_end(self) -> None:
        """Log ``test/...``."""
        self._finish_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Predictions for one batch."""
        return self.compute(batch).predictions

    def prediction_rows(self, batch: Any, predictions: Any) -> Any:
        """What ``predictions.jsonl`` says of each row of a batch: a mapping or a value for each, with clear names."""
        return predictions

    # optimizer

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are optimised, by name; the only place that decides this."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, without decay on parameters of one dimension, and its schedule."""
        parameters = list(self.trainable_parameters().values())
        if not parameters:
            raise ConfigError("network", "no parameter that requires a gradient", "at least one trainable parameter")
        optimizer = made("optimizer", self.optimizer, parameters)
        kept = {id(parameter) for parameter in self._scales}
        flat = [parameter for parameter in parameters if parameter.ndim < 2 or id(parameter) in kept]
        if optimizer.defaults.get("weight_decay") and flat and (len(flat) < len(parameters) or kept):
            decayed = [parameter for parameter in parameters if parameter.ndim >= 2 and id(parameter) not in kept]
            groups = [{"params": decayed}] if decayed else []
            optimizer = self.optimizer([*groups, {"params": flat, "weight_decay": 0.0}])
        optimizer = fused(optimizer)
        if self.schedule is None:
            return optimizer
        schedule = self.schedule.configure(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # checkpoints without the frozen base

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """As in Lightning; what is stored names classes that have been imported, see ``lit_ft.core.trust``."""
        said = [Network.of(kwargs["network"])] if isinstance(kwargs.get("network"), (Network, Mapping)) else []
        if said:
            kwargs["network"] = said[0].plain()
        with reading(stored=True, imported=True, networks=said):
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out frozen weights that the network's path gives back, and note their fingerprint."""
        if self.facts:
            checkpoint[FACTS] = list(self.facts)
        if self.network is not None:
            self._base.leave_out(self.network, "network.", checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore facts about the data that are still None, and refuse a checkpoint of another frozen base."""
        restore_facts(self, checkpoint)
        self.configure_model()
        self.check_origin(checkpoint)

    def check_origin(self, checkpoint: Mapping[str, Any], whole: bool = True) -> None:
        """Refuse weights of a checkpoint that were trained on another base, or with other settings of the adapter.

        Args:
            checkpoint: The whole checkpoint.
            whole: Whether it is this run's; else its weights are only where this one begins.
        """
        self._base.check(self.network, "network.", checkpoint, whole)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch, but weights of the frozen base may be missing where the checkpoint leaves them out."""
        left_out = self._base.about_to_load(self.network, "network.", state_dict)
        result = super().load_state_dict(state_dict, strict=strict and not left_out, assign=assign)
        wrong = [*(set(result.missing_keys) - left_out), *result.unexpected_keys]
        if left_out and strict and wrong:
            raise RuntimeError(f"the checkpoint does not fit {type(self).__name__}: {', '.join(sorted(wrong))}")
        return result
