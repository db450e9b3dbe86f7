"""Learning rate schedules that know the length of the run."""

import math
from abc import ABC, abstractmethod

from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_ft.core.errors import ConfigError
from lit_ft.core.optimizers import made


class Schedule(ABC):
    """How the learning rate changes over a run.

    See also: :class:`TorchSchedule`, for the schedulers of torch.

    Example:
        >>> class TenSteps(Schedule):
        ...     def configure(self, optimizer, total_steps):
        ...         scheduler = torch.optim.lr_scheduler.StepLR(optimizer, total_steps // 10)
        ...         return {"scheduler": scheduler, "interval": "step"}
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> TenSteps().configure(optimizer, total_steps=100)["scheduler"].step_size
        10
    """

    @abstractmethod
    def configure(self, optimizer: Optimizer, total_steps: float) -> LRSchedulerConfigType:
        """The scheduler in the form that Lightning expects.

        Args:
            optimizer: The optimizer whose rates are scheduled.
            total_steps: Optimizer steps of the whole run; ``inf`` if unknown.
        """


class WarmUpSchedule(Schedule):
    """Linear warm-up from 0, then ``decay(progress)`` of the peak rate, for progress from 0 to 1 over the other steps.

    Args:
        warmup: Below 1: fraction of all steps; else a number of steps.
        final: Rate at the end as a fraction of the peak.

    Example:
        >>> class Square(WarmUpSchedule):
        ...     def decay(self, progress):
        ...         return (1 - progress) ** 2
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = Square(warmup=1).configure(optimizer, total_steps=5)["scheduler"]
        >>> [scheduler.lr_lambdas[0](step) for step in range(6)]
        [0.5, 1.0, 0.5625, 0.25, 0.0625, 0.0]
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        if not 0 <= warmup < math.inf or (warmup > 1 and warmup != int(warmup)):
            raise ConfigError("warmup", warmup, "a fraction in [0, 1) or a whole number of steps")
        if not 0 <= final <= 1:
            raise ConfigError("final", final, "a fraction in [0, 1]")
        self.warmup, self.final = warmup, final

    def decay(self, progress: float) -> float:
        """The multiplier after warm-up, from 1 at progress 0 to 0 at progress 1."""
        raise NotImplementedError(f"{type(self).__name__} defines decay(progress)")

    def configure(self, optimizer: Optimizer, total_steps: float) -> LRSchedulerConfigType:
        """A scheduler that steps with the optimizer."""
        if math.isinf(total_steps):
            raise ConfigError("schedule", type(self).__name__, "a run of known length: set trainer.max_steps")
        warm = self.warmup if self.warmup >= 1 else math.ceil(self.warmup * total_steps)

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / (warm + 1)
            progress = min(1.0, (step - warm) / max(1.0, total_steps - warm))
            return self.final + (1 - self.final) * self.decay(progress)

        return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


class Constant(WarmUpSchedule):
    """Warm-up, then the peak rate to the end.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = Constant(warmup=3).configure(optimizer, total_steps=5)["scheduler"]
        >>> [scheduler.lr_lambdas[0](step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    def __init__(self, warmup: float = 0.0) -> None:
        super().__init__(warmup)

    def decay(self, progress: float) -> float:
        """Always 1."""
        return 1.0


class Linear(WarmUpSchedule):
    """Warm-up, then a straight line to ``final``.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = Linear(warmup=1, final=0.2).configure(optimizer, total_steps=5)["scheduler"]
        >>> [round(scheduler.lr_lambdas[0](step), 2) for step in range(6)]
        [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """

    def decay(self, progress: float) -> float:
        """``1 - progress``."""
        return 1 - progress


class Cosine(WarmUpSchedule):
    """Warm-up, then half a cosine to ``final`` (Loshchilov, Hutter: SGDR, 2017, arXiv 1608.03983, no restarts).

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = Cosine().configure(optimizer, total_steps=4)["scheduler"]
        >>> [round(scheduler.lr_lambdas[0](step), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """

    def decay(self, progress: float) -> float:
        """``(1 + cos(pi progress)) / 2``."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class TorchSchedule(Schedule):
    """Any learning-rate scheduler of torch.

    Args:
        scheduler: For instance ``{class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 10}}``.
        interval: Whether the scheduler steps with the optimizer (``step``) or at the end of an epoch (``epoch``).
        monitor: Logged key that ``ReduceLROnPlateau`` watches.

    Example:
        >>> schedule = TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=10))
        >>> schedule.configure(torch.optim.SGD([torch.zeros(1)], lr=1.0), total_steps=100)["interval"]
        'epoch'
    """

    def __init__(self, scheduler: LRSchedulerCallable, interval: str = "epoch", monitor: str = "val/loss") -> None:
        if interval not in ("step", "epoch"):
            raise ConfigError("interval", interval, "step or epoch")
        self.scheduler, self.interval, self.monitor = scheduler, interval, monitor

    def configure(self, optimizer: Optimizer, total_steps: float) -> LRSchedulerConfigType:
        """The torch scheduler at the chosen interval."""
        scheduler = made("schedule.scheduler", self.scheduler, optimizer)
        config: LRSchedulerConfigType = {"scheduler": scheduler, "interval": self.interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = self.monitor
        return config
