"""Task weights that follow the convergence of each task."""

from itertools import islice
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import StepCounter
from lit_ft.core.observing import own_loader
from lit_ft.core.passes.second_pass import without_trace


def slope(values: Tensor) -> Tensor:
    """Slope of the least-squares line through values at 0, 1, 2, ...; shape (points, ...) to (...).

    Example:
        >>> slope(torch.tensor([1.0, 3.0, 5.0]))
        tensor(2.)
    """
    x = torch.arange(len(values), dtype=values.dtype) - (len(values) - 1) / 2
    return torch.tensordot(x, values, 1) / x.square().sum()


def coba_weights(slopes: Tensor, worst: Tensor, tau: float = 5.0) -> Tensor:
    r"""Weights of T tasks from the slopes of their validation losses; they add up to 1.

    With :math:`\alpha_i(t)` the slope of task i at measurement t of N, and :math:`\alpha(t)` that of the worst task,

    .. math:: R_i=\mathrm{softmax}_i\frac{T\alpha_i(N)}{\sum_j|\alpha_j(N)|},\quad
              A_i=\mathrm{softmax}_i\frac{-N\alpha_i(N)}{\sum_t|\alpha_i(t)|},\quad
              D=\min\Big(1,\;N\,\mathrm{softmax}_t\frac{-\tau N\alpha(t)}{\sum_s|\alpha(s)|}\Big|_{t=N}\Big)

    .. math:: w=\mathrm{softmax}\big(T\,(D\,R+(1-D)\,A)\big),

    mixed with equal weights so that none is below 1 / (10 T). R raises tasks that converge more slowly than the others,
    A lowers those that converge more slowly than before, or diverge; D measures how far all tasks still converge.

    Args:
        slopes: Shape (measurements, tasks), the present ones last.
        worst: Slopes of the worst task, shape (measurements,).
        tau: Temperature of D.

    Example:
        >>> steady = torch.tensor([[-0.3, -0.1], [-0.3, -0.1]])  # the second task converges more slowly
        >>> coba_weights(steady, worst=steady[:, 1])
        tensor([0.2841, 0.7159])
        >>> diverging = torch.tensor([[-0.3, -0.1], [-0.3, 0.2]])
        >>> coba_weights(diverging, worst=diverging[:, 1])
        tensor([0.8384, 0.1616])
    """
    count, tasks = slopes.shape
    tiny = torch.finfo(slopes.dtype).tiny
    relative = (tasks * slopes[-1] / slopes[-1].abs().sum().clamp(min=tiny)).softmax(0)
    absolute = (-count * slopes[-1] / slopes.abs().sum(0).clamp(min=tiny)).softmax(0)
    trend = -tau * count * worst / worst.abs().sum().clamp(min=tiny)
    converging = (count * trend.softmax(0)[-1]).clamp(max=1.0)
    weights = (tasks * (converging * relative + (1 - converging) * absolute)).softmax(0)
    least = 1 / (10 * tasks)
    return weights if weights.min() >= least else weights * (1 - least * tasks) + least


class CoBa(FitCallback):
    r"""Convergence balancer: every few steps, tasks get weights by the slopes of their validation losses.

    Losses are taken over the validation data, by task and divided by their first values; slopes are those of lines
    through the last ``window`` of them. See :func:`coba_weights`. Weights are scaled to a mean of 1.

    Needs ``SupervisedFineTuning`` with a reduction over tasks and without ``task_weights``, and data with
    ``task_column`` and validation rows of every task. Logs ``coba/<task>``, the weight. Nothing else in training
    changes. Cost: one forward pass over the validation data (or ``num_batches`` of it) at each measurement.

    Args:
        every_n_steps: Optimizer steps between measurements, at least 1. Reference: 1.
        warmup: Measurements before weights may differ from 1, at least 2. Reference: 100.
        window: Measurements that a slope is fitted to, at least 2. Reference: 200.
        tau: Temperature of the divergence factor, above 0. Reference: 5.
        num_batches: Batches of validation; None takes all.

    Source: B. Liu et al., MFTCoder, 2023, arXiv:2311.02303, and codefuse-ai/MFTCoder at 8ba13f4, where CoBa was added.
    Deviations: the same validation rows at each measurement, not the next batch; D is at most 1, so that both scores
    keep their sign; slopes are fitted from the second measurement on (there from the end of the warm-up on, so that its
    steep first ones count in neither A nor D); A and D take the last ``window`` slopes (there A the last
    ``window - warmup + 1``, D all of them).

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.data import Instructions
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> from lit_ft.testing import fit_foreign
        >>> rows = [{"prompt": f"{n}", "completion": "ab", "task": "xy"[n % 2]} for n in range(16)]
        >>> _ = Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> data = Instructions("rows.jsonl", task_column="task", val_fraction=0.5)
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 1, "n_layer": 1}
        >>> method = SupervisedFineTuning({"config": gpt2}, reduction="task")
        >>> _, trainer = fit_foreign([CoBa(every_n_steps=1, warmup=2)], module=method, data=data, max_steps=3)
        >>> sum(trainer.callback_metrics[f"coba/{task}"] for task in "xy") / 2  # the mean weight
        tensor(1.)
    """

    remembers = ("_losses", "_slopes")

    def __init__(
        self,
        every_n_steps: PositiveInt = 10,
        warmup: Annotated[int, Range(low=2)] = 5,
        window: Annotated[int, Range(low=2)] = 20,
        tau: PositiveFloat = 5.0,
        num_batches: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps, self.warmup, self.window, self.tau = every_n_steps, warmup, window, tau
        self.num_batches = num_batches
        self._count = StepCounter()
        self._given: dict[str, float] | None = None
        self._losses: list[list[float]] = []
        self._slopes: list[list[float]] = []

    @override
    def settled(self) -> tuple[str, ...]:
        return ("num_batches",)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the start; a resumed run restores its weights."""
        if not str(getattr(pl_module, "reduction", "")).startswith("task"):
            raise ConfigError("callbacks", "CoBa", "SupervisedFineTuning with reduction task or task_sequence")
        if len(getattr(trainer.datamodule, "task_names", [])) < 2:  # type: ignore[attr-defined]
            raise ConfigError("callbacks", "CoBa", "data with a task_column of at least two tasks")
        weights: Any = pl_module.task_weights
        if weights is not None:
            raise ConfigError("task_weights", weights, "null beside CoBa, which sets them itself")
        if not self._losses:
            self._losses.append(self._task_losses(trainer, pl_module))
        self._count.begin(trainer)
        self._apply(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after every n-th step, set the weights, and log them in every row from then on."""
        if self._count.passed(trainer, self.every_n_steps):
            self._losses.append(self._task_losses(trainer, pl_module))
            self._slopes.append(slope(self._ratios()[-self.window :]).tolist())
            self._apply(trainer, pl_module)
        if self._slopes and self._given:
            pl_module.log_dict({f"coba/{n}": w for n, w in self._given.items()}, on_step=True, on_epoch=False)

    def _ratios(self) -> Tensor:
        losses = torch.tensor(self._losses, dtype=torch.float64)
        ratios = losses / losses[0]
        return torch.cat([ratios, ratios.amax(1, keepdim=True)], 1)  # the last column is the worst task

    def _apply(self, trainer: pl.Trainer, module: Any) -> None:
        names = trainer.datamodule.task_names  # type: ignore[attr-defined]
        weights = torch.ones(len(names), dtype=torch.float64)
        if len(self._slopes) >= self.warmup:
            kept = torch.tensor(self._slopes[-self.window :], dtype=torch.float64)
            weights = len(names) * coba_weights(kept[:, :-1], kept[:, -1], self.tau)
        module.task_weights = self._given = dict(zip(names, weights.tolist(), strict=True))

    def _task_losses(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[float]:
        names = trainer.datamodule.task_names  # type: ignore[attr-defined]
        sums = torch.zeros(2, len(names), dtype=torch.float64)
        with without_trace(trainer, module), torch.no_grad():
            module.eval()
            for number, batch in enumerate(islice(own_loader(trainer, module, "val_dataloader"), self.num_batches)):
                with trainer.precision_plugin.forward_context():
                    found = torch.stack([-module.predict_step(batch, number), batch["weights"].sum(1)])
                sums.index_add_(1, batch["tasks"].cpu(), found.double().cpu())
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(module.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        empty = [name for name, weight in zip(names, sums[1].tolist(), strict=True) if weight == 0]
        if empty:
            raise ConfigError(
                "callbacks", "CoBa", f"validation rows of every task; there are none of {', '.join(empty)}"
            )
        return (sums[0] / sums[1]).tolist()

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remove the weights from the module."""
        if self._given is not None:
            module.task_weights = self._given = None  # type: ignore[assignment]
