"""How long the runs of a study will take, by a short run of each stage, or by those that are finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_ft.running.duration import duration
from lit_ft.studies.plan import Planned
from lit_ft.studies.runner import is_complete

LIMIT = 5.0  # seconds of training in a run that is timed
FEW = 4  # steps; with fewer the limit says little of what one takes


@dataclass(frozen=True)
class Pace:
    """What one run took.

    Args:
        step: Seconds an optimizer step.
        beside: Seconds of all else: its start, one validation, its test.
        epoch: Steps of an epoch; None where it did not come to the end of one.
    """

    step: float
    beside: float
    epoch: float | None

    @classmethod
    def of(cls, seconds: float, report: Mapping[str, Any]) -> "Pace | None":
        """Of a run that was stopped after ``LIMIT`` seconds of training, or ended before; None if it made no step.

        Args:
            seconds: All that it took.
            report: Its report.

        Example:
            >>> Pace.of(9.0, {"steps": 50, "epochs": 2, "wall_seconds": 6.0})
            Pace(step=0.1, beside=4.0, epoch=25.0)
        """
        steps, epochs = report.get("steps") or 0, report.get("epochs") or 0
        if not steps:
            return None
        wall = report["wall_seconds"]
        training = wall if steps < FEW else min(wall, LIMIT)  # what is above the limit is a validation
        return cls(training / steps, max(0.0, seconds - training), steps / epochs if epochs else None)

    def seconds(self, trainer: Mapping[str, Any]) -> float | None:
        """What a run with these arguments of the trainer takes; None where it is not known how long an epoch is.

        Example:
            >>> Pace(0.1, 4.0, 25.0).seconds({"max_steps": 1000, "max_epochs": 10})
            29.0
        """
        limits = [trainer.get("max_steps"), trainer.get("max_epochs")]
        steps, epochs = (limit if limit is not None and limit >= 0 else None for limit in limits)
        if self.epoch is None and epochs is not None:
            return None
        counts = [steps, epochs * self.epoch if epochs is not None and self.epoch is not None else None]
        known = [count for count in counts if count is not None]
        return self.beside + self.step * min(known) if known else None


def timed(run: Planned, root: Path) -> Planned:
    """A run as it is, every value logged, that stops training after ``LIMIT`` seconds and is validated then.

    Args:
        run: The run.
        root: Folder in which the short run gets its own.
    """
    flags = {
        "max_time": f"00:00:00:{LIMIT:02.0f}",
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "val_check_interval": 1.0,
        "check_val_every_n_epoch": 1,
    }
    folder = root / run.folder.parent.name / run.folder.name
    return replace(run, args=[*run.args, *(f"--trainer.{k}={v}" for k, v in flags.items())], folder=folder, after=None)


def forecast(planned: Sequence[Planned], paces: Mapping[str, Pace], jobs: int) -> str:
    """A line that says how many runs are left, and how long they take.

    Args:
        planned: The runs.
        paces: What a run of each stage takes.
        jobs: How many are made at once.
    """
    from lit_ft.running.report import read_report

    finished: dict[tuple[str, str], list[float]] = {}
    left = []
    for run in planned:
        if is_complete(run.folder):
            finished.setdefault((run.arm, run.stage), []).append(read_report(run.folder).get("wall_seconds", 0.0))
        else:
            left.append(run)
    if not left:
        return f"all {len(planned)} runs are there"
    told: list[float | None] = []
    for run in left:
        own, pace = finished.get((run.arm, run.stage)), paces.get(run.stage)
        told.append(sum(own) / len(own) if own else pace.seconds(run.config.get("trainer") or {}) if pace else None)
    known = [seconds for seconds in told if seconds is not None]
    count = f"{len(left)} of {len(planned)} runs are to be made"
    if not known:
        return f"{count}; how long they take is not known before the first has come to its end"
    whole = sum(known) / len(known) * len(left) / min(jobs, len(left))
    return f"{count}, about {duration(whole)} by what {'probes' if paces else 'earlier runs'} took"
