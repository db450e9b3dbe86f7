"""Sharpness against the largest curvature at which the optimizer is stable."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import NonNegativeInt, PositiveFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.second_pass import copied, without_trace
from lit_ft.core.passes.window import window_starts
from lit_ft.curvature.eigensolver import Eigenpairs
from lit_ft.curvature.eigenvalues import NonFiniteLoss, measure
from lit_ft.curvature.fixed_batches import fixed_batches
from lit_ft.curvature.objective import NoLoss, Objective
from lit_ft.curvature.operators import NoDoubleBackward, Product
from lit_ft.curvature.stability import Stability, stability
from lit_ft.curvature.warm_subspace import WarmSubspace


class EdgeOfStability(FitCallback):
    r"""Tracks the leading eigenvalues of the loss Hessian and the threshold of the optimizer in use.

    On a quadratic, gradient descent diverges along directions whose curvature is above :math:`2/\eta`. In full-batch
    training of networks the sharpness :math:`\lambda_1` rises to this threshold and hovers at it, while the loss still
    falls (not monotonously). Thresholds are known for SGD, with momentum, Nesterov, RMSprop, Adam and AdamW
    (``lit_ft.curvature.stability``). For the last three, and for groups with several learning rates, the eigenvalues
    are those of :math:`D^{1/2} H D^{1/2}` with D the inverse preconditioner times the group's rate over the largest
    rate; for plain SGD they are those of H.

    Works in any LightningModule with automatic optimisation, on one device and under DDP (each rank its shard), and
    does not change training. Measured at the weights before the step, in float32, in evaluation mode unless
    ``training``; ``training_step`` is called with ``batch_idx`` 0, and a step for which it returns None is not
    measured. With SAM the eigenvalues are logged and no ratio, as :math:`2/\eta` is not its edge.

    Cost of a measurement at k = 1: 6 to 9 Hessian products of about two forward-backward passes each (20 to 40 for the
    first), ``2 (k + 3) + k`` copies of the trainable weights between measurements, up to 96 inside one.

    Logs:
        ``edge_of_stability/lambda_1`` ... ``lambda_k``; ``threshold``; ``ratio`` (:math:`\lambda_1` over the
        threshold); ``directional_sharpness`` (:math:`g^\top A g/g^\top g` along the scaled gradient g of the matrix A
        that is measured); ``products``. With ``training`` all are under ``edge_of_stability/train_mode/``. Steps
        between measurements repeat the last one.

    Args:
        every_n_steps: Optimizer steps between measurements; the first is before the first step.
        k: How many eigenvalues.
        tol: Error of the eigenvalues relative to the first.
        num_batches: Measure on this many fixed batches, drawn with ``seed`` from the training data (the first ones of
            the run, if rows cannot be read by number). None: on the batches of the current accumulation window, which
            is exact for full-batch training.
        preconditioned: False measures H whatever the optimizer; then no threshold is logged where it does not apply.
        training: Measure in training mode: batch norm by batch, one fixed dropout mask. Adam with batch norm needs it:
            biases before a norm have no gradient, so a preconditioner of about epsilon, but in evaluation mode they
            have curvature (ratios of some hundreds).
        product: ``finite_difference`` for losses and kernels without second derivatives.
        save_vectors: Save the vectors in checkpoints, so that a resumed run logs the same numbers; without them the
            first measurement after a resume agrees to ``tol``.
        seed: Seed of the choice of batches and of the module's randomness while it is measured.
        max_products: Most Hessian products of a measurement; where they do not suffice for ``tol``, it is said once
            what accuracy was reached.

    Source: J. Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, 2021, arXiv
    2103.00065; adaptive optimizers: J. Cohen et al., 2022, arXiv 2207.14484. They compute eigenvalues with ARPACK; here
    a warm-started block solver does (``lit_ft.curvature.eigensolver``).

    See also: :func:`~lit_ft.core.curvature.hessian_eigenvalues`.

    Example:
        >>> from lit_ft.data import NoisyLinear
        >>> from lit_ft.methods import Regression
        >>> from lit_ft.testing import fit_foreign
        >>> sgd = lambda weights: torch.optim.SGD(weights, lr=0.1)
        >>> linear = Regression({"config": {"model_type": "mlp", "depth": 0}}, optimizer=sgd)
        >>> edge = EdgeOfStability(every_n_steps=1)
        >>> _ = fit_foreign([edge], module=linear, data=NoisyLinear(batch_size=None), max_steps=1)
        >>> [round(edge.measurements[0][name], 1) for name in ("lambda_1", "threshold")]  # 2 / 0.1
        [2.9, 20.0]
    """

    needs = ("automatic optimization", "one device or ddp")
    remembers = ("measurements", "_values")
    forgets = ("_warm", "_stopped", "_told")

    def __init__(
        self,
        every_n_steps: PositiveInt = 10,
        k: PositiveInt = 1,
        tol: PositiveFloat = 1e-4,
        num_batches: PositiveInt | None = None,
        preconditioned: bool = True,
        training: bool = False,
        product: Product = "double_backward",
        save_vectors: bool = False,
        seed: NonNegativeInt = 0,
        max_products: PositiveInt = 200,
    ) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps, self.k, self.tol, self.num_batches = every_n_steps, k, tol, num_batches
        self.preconditioned, self.training, self.product = preconditioned, training, product
        self.max_products = max_products
        self.save_vectors, self.seed = save_vectors, seed
        self._batches: list[Any] = []
        self._filled = self._waiting = False
        self.measurements: list[dict[str, float]] = []
        self._values: dict[str, float] = {}
        self._warm = WarmSubspace()
        self._stopped = False
        self._told: set[str] = set()

    # hooks

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a ``k`` above the number of trainable parameters; drop the batches of an earlier fit."""
        self._batches, self._filled, self._waiting = [], False, False
        trainable = [p for p in pl_module.parameters() if p.requires_grad]
        if any(is_lazy(p) for p in trainable):  # they have a size from the first batch on
            return
        size = sum(p.numel() for p in trainable)
        if self.k > size:
            raise ConfigError("k", self.k, f"1 to the number of trainable parameters, {size}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batches of a window that will be measured."""
        if self._stopped:
            return
        if self.num_batches is not None:
            self._fill(trainer, pl_module, batch, self.num_batches)
        elif self._due(trainer):
            if window_starts(trainer, batch_idx):
                self._batches = []
            elif not self._batches:  # resumed inside a window
                return
            self._batches.append(copied(batch))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure at the weights before this step, and log the latest measurement."""
        if self._due(trainer) and not self._stopped and not self._waiting:
            self._values = {}
            if self._batches or trainer.world_size > 1:
                try:
                    self._measure(trainer, pl_module, optimizer)
                except NoLoss:
                    self._tell("no eigenvalues where training_step returns None")
                except NonFiniteLoss as error:
                    self._tell(f"{error} (step {trainer.global_step})")
                except NoDoubleBackward as error:
                    self._stopped = True
                    self._tell(f"no eigenvalues from here on: {error}")
        prefix = "edge_of_stability/train_mode" if self.training else "edge_of_stability"
        for key, value in self._values.items():
            pl_module.log(f"{prefix}/{key}", value, on_step=True, on_epoch=False, batch_size=1)

    # measuring

    def _due(self, trainer: pl.Trainer) -> bool:
        return trainer.global_step % self.every_n_steps == 0

    def _fill(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, count: int) -> None:
        """Read the fixed batches, once; or collect them from those that pass."""
        if not self._filled:
            self._filled = True
            with without_trace(trainer, module):
                torch.manual_seed(self.seed)
                found = fixed_batches(
                    trainer.train_dataloader, count, self.seed, trainer.global_rank, trainer.world_size
                )
                self._waiting = found is None
                self._batches = [_transferred(trainer, one) for one in found or []]
        if self._waiting:
            self._batches.append(copied(batch))
            self._waiting = len(self._batches) < count

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        optimised = {p for group in optimizer.param_groups for p in group["params"]}
        parameters = [p for p in module.parameters() if p.requires_grad and p in optimised]
        objective = Objective(module, self._batches, None, parameters, self.training, self.seed)
        if self.num_batches is None:
            self._batches = []
        limit = self._limit(trainer, optimizer, objective)
        scaling = None if limit is None else limit.diagonal
        if scaling is not None:
            if self.preconditioned:
                scaling = scaling.to(objective.device, objective.dtype)
            else:
                limit = scaling = None
        with objective.evaluating():
            pairs, _ = measure(
                *(objective, self.k, self.tol, "largest", self.product, self._warm, scaling),
                max_products=self.max_products,
            )
        self._keep(trainer, pairs, limit)

    def _limit(self, trainer: pl.Trainer, optimizer: Optimizer, objective: Objective) -> Stability | None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(kind.__name__ == "SAM" for callback in callbacks for kind in type(callback).__mro__):
            self._tell("with SAM the edge is not where it is without: eigenvalues are logged, no ratio")
            return None
        found = stability(optimizer, objective.parameters)
        started = bool(optimizer.state) or trainer.global_step > 0
        if found is None and started and any(group["lr"] > 0 for group in optimizer.param_groups):
            name = type(optimizer).__name__
            self._tell(f"no threshold is known for {name} as it is set here: lambda alone is logged")
        return found

    def _keep(self, trainer: pl.Trainer, pairs: Eigenpairs, limit: Stability | None) -> None:
        values = {f"lambda_{i + 1}": float(value) for i, value in enumerate(pairs.values)}
        if limit is not None:
            values |= {"threshold": limit.threshold, "ratio": values["lambda_1"] / limit.threshold}
        values |= {"directional_sharpness": pairs.quotient, "products": float(pairs.products)}
        if not pairs.converged:
            reached = float(pairs.errors.max() / pairs.values.abs().max())
            self._tell(
                f"the eigenvalues are not at tol={self.tol:g} (step {trainer.global_step}, after {pairs.products} "
                f"products, they are at {reached:.1g}); a larger max_products takes more, a larger tol asks for less"
            )
        self._values = values
        self.measurements.append({"step": float(trainer.global_step), **values})

    def _tell(self, message: str) -> None:
        kind = message.split("(", 1)[0]
        if kind not in self._told:
            self._told.add(kind)
            rank_zero_warn(f"EdgeOfStability: {message}")

    # state and report

    @property
    def state_key(self) -> str:
        """Evaluation and training mode have a state each: one run may measure both."""
        return self._generate_state_key(training=self.training)

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far, and the vectors with ``save_vectors``."""
        warm = {"warm": self._warm.state_dict()} if self.save_vectors else {}
        return {**super().state_dict(), **warm}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "warm" in state_dict:
            self._warm.load_state_dict(state_dict["warm"])

    def report(self) -> dict[str, Any]:
        """First, last and largest sharpness; the ratio at a tenth of the run and its mean over the last fifth."""
        if not self.measurements:
            return {}
        sharpness = [row["lambda_1"] for row in self.measurements]
        ratios = [row["ratio"] for row in self.measurements if "ratio" in row]
        summary: dict[str, Any] = {
            "measurements": len(sharpness),
            "products_per_measurement": sum(row["products"] for row in self.measurements) / len(sharpness),
            "sharpness": {"first": sharpness[0], "last": sharpness[-1], "largest": max(sharpness)},
        }
        if ratios:
            late = ratios[-max(1, len(ratios) // 5) :]
            summary["ratio"] = {"at_a_tenth": ratios[len(ratios) // 10], "late_mean": sum(late) / len(late)}
        return summary

    def plots(self, history: Mapping[str, tuple[list[int], list[float]]]) -> dict[str, Any]:
        """Sharpness against the threshold over steps."""
        from matplotlib.figure import Figure

        prefix = "edge_of_stability/train_mode/" if self.training else "edge_of_stability/"
        if f"{prefix}lambda_1" not in history:
            return {}
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for i in range(self.k):
            steps, values = history.get(f"{prefix}lambda_{i + 1}", ([], []))
            axes.plot(steps, values, ".-", label=f"eigenvalue {i + 1}")
        if f"{prefix}threshold" in history:
            axes.plot(*history[f"{prefix}threshold"], "k--", label="largest stable curvature")
        axes.set(xlabel="optimizer step", ylabel="sharpness", title="The edge of stability")
        axes.set_ylim(bottom=min(0, *axes.get_ylim()))
        axes.legend()
        return {"edge_of_stability": figure}


def _transferred(trainer: pl.Trainer, batch: Any) -> Any:
    """The batch as the training loop would hand it to the step."""
    with getattr(trainer.precision_plugin, "forward_context", nullcontext)():
        batch = trainer.precision_plugin.convert_input(batch)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
