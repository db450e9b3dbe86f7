"""A Gaussian over the weights that training passes through."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_ft.core.batch_norm import update_batch_norm
from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import StepCounter, share_of_steps


class WeightGaussian:
    r"""Mean, diagonal variance and the last K deviations of a sequence of vectors.

    Its samples are :math:`\bar\theta + \sqrt{\tfrac12}\,\sigma \odot z_1 + D z_2 / \sqrt{2(K-1)}` with standard normal
    z and D the deviations of the last K vectors from the mean at their time.

    Args:
        rank: Largest K, at least 2.

    Example:
        >>> gaussian = WeightGaussian(rank=2)
        >>> for value in (1.0, 3.0):
        ...     gaussian.add(torch.tensor([value]))
        >>> gaussian.mean, gaussian.variance
        (tensor([2.]), tensor([1.]))
        >>> gaussian.sample(torch.Generator(), scale=0.0)
        tensor([2.])
    """

    def __init__(self, rank: int = 20) -> None:
        self.rank, self.count = rank, 0
        self.mean = self.squares = torch.zeros(0)
        self.deviations: list[Tensor] = []

    def add(self, vector: Tensor) -> None:
        """Add one vector (Welford's update, which avoids cancellation)."""
        vector = vector.detach().float()
        if self.count == 0:
            self.mean, self.squares = torch.zeros_like(vector), torch.zeros_like(vector)
        self.mean, self.squares = self.mean.to(vector.device), self.squares.to(vector.device)
        self.count += 1
        before = vector - self.mean
        self.mean = self.mean + before / self.count
        after = vector - self.mean
        self.squares = self.squares + before * after
        self.deviations = [*self.deviations, after][-self.rank :]

    @property
    def variance(self) -> Tensor:
        """Variance of each weight."""
        return self.squares / max(1, self.count)

    def sample(self, generator: torch.Generator, scale: float = 1.0) -> Tensor:
        """One vector; ``scale`` multiplies the covariance (0 gives the mean)."""
        if self.count < 2:
            raise ConfigError("SWAG", f"{self.count} collected weights", "at least 2: start earlier, or train longer")
        device = self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator).to(device) * self.variance.sqrt()
        columns = torch.stack([d.to(device) for d in self.deviations])
        mixed = torch.randn(len(columns), generator=generator).to(device) @ columns / math.sqrt(len(columns) - 1)
        return self.mean + math.sqrt(scale / 2) * (noise + mixed)


class SWAG(FitCallback):
    """Collects the weights late in training, to sample networks from their Gaussian afterwards.

    The learning rate should stay high while it collects. Training itself does not change. Afterwards::

        with swag.sampled(module, seed=0, batches=batches):
            ...  # predict with the sampled weights; average over seeds

    Covers the parameters that are trainable at the first collection; with ``batches``, batch-norm statistics are those
    of the sampled weights.

    Cost: one pass over the weights a collection; memory ``rank + 2`` copies of the trainable weights, which also go
    into checkpoints.

    Logs nothing; reports how many weights were collected, and the trace of their covariance.

    Source: W. Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", 2019, arXiv 1902.02476.

    Args:
        start: Below 1: fraction of all optimizer steps before the first collection; else a number of steps (paper:
            0.54 to 0.75).
        every_n_steps: Optimizer steps between collections; None collects at the end of each epoch, as the paper.
        rank: How many of the last deviations are kept, at least 2 (paper: 20).

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> swag = SWAG(start=0.5, every_n_steps=2)
        >>> module, _ = fit_foreign([swag], max_steps=8)
        >>> swag.report()["collected"]  # after the steps 4, 6 and 8
        3
        >>> trained = module.model[0].weight.clone()
        >>> with swag.sampled(module, seed=0):
        ...     torch.equal(module.model[0].weight, trained)
        False
        >>> torch.equal(module.model[0].weight, trained)
        True
    """

    remembers = ("names",)
    forgets = ("weights", "_last_step")

    def __init__(
        self, start: float = 0.75, every_n_steps: PositiveInt | None = None, rank: Annotated[int, Range(low=2)] = 20
    ) -> None:
        super().__init__()
        checked(locals())
        if start < 0 or (start >= 1 and start != int(start)):
            raise ConfigError("start", start, "a fraction in [0, 1) or a whole number of steps")
        self.start, self.every_n_steps, self.rank = start, every_n_steps, rank
        self.weights = WeightGaussian(self.rank)
        self.names: list[str] = []
        self._last_step = 0
        self._count = StepCounter()

    @override
    def settled(self) -> tuple[str, ...]:
        return ("start",) if self.weights.count else ()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a fraction of a run of unknown length."""
        self._count.begin(trainer)
        if self.start < 1:
            share_of_steps(trainer, "start", self.start)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect after every n-th step."""
        if self._count.passed(trainer, self.every_n_steps):
            self._collect(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect once an epoch."""
        if self.every_n_steps is None:
            self._collect(trainer, pl_module)

    def _collect(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        start = self.start if self.start >= 1 else share_of_steps(trainer, "start", self.start)
        if trainer.global_step < start:
            return
        if not self.names:
            self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.weights.add(torch.cat([parameter.detach().flatten() for parameter in self._parameters(module)]))

    def _parameters(self, module: nn.Module) -> list[nn.Parameter]:
        present = dict(module.named_parameters())
        absent = next((name for name in self.names if name not in present), None)
        if absent is not None:
            raise ConfigError("module", f"one without {absent}", "the module whose weights were collected")
        return [present[name] for name in self.names]

    @contextmanager
    def sampled(
        self,
        module: nn.Module,
        seed: int,
        scale: float = 1.0,
        batches: Iterable[Any] = (),
        forward: Callable[[nn.Module, Any], Any] = lambda module, batch: module(batch),
    ) -> Iterator[nn.Module]:
        """A context in which the module has sampled weights; its own weights and batch-norm statistics return after it.

        Args:
            module: The module that was trained.
            seed: Seed of the sample.
            scale: Multiplies the covariance; 0 is the mean of the weights (SWA), the paper's samples have 1.
            batches: Training batches for the batch-norm statistics; none keeps those of training.
            forward: How the module is run on a batch for that.
        """
        weights = self.weights.sample(torch.Generator().manual_seed(seed), scale)
        parameters = self._parameters(module)
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        with torch.no_grad():
            for parameter, piece in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(piece.view_as(parameter))
        try:
            update_batch_norm(module, batches, forward)
            yield module
        finally:
            module.load_state_dict(kept)

    def report(self) -> dict[str, float]:
        """Number of collected weights, and the trace of their covariance."""
        return {"collected": self.weights.count, "variance": float(self.weights.variance.sum())}

    def state_dict(self) -> dict[str, Any]:
        """Moments and deviations, and the names of their parameters."""
        g = self.weights
        moments = {"count": g.count, "mean": g.mean, "squares": g.squares, "deviations": g.deviations}
        return moments | {"step": self._last_step, **super().state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        g = self.weights
        g.count, g.mean, g.squares = state_dict["count"], state_dict["mean"], state_dict["squares"]
        g.deviations, self._last_step = list(state_dict["deviations"]), state_dict["step"]
