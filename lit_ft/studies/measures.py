"""One number from the files of a run."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.plain import from_mapping

if TYPE_CHECKING:
    from lit_ft.running.metrics_file import History

TAKES = "last, first, min, max, best, mean, late(FRACTION), at(FRACTION)"


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Errors of a measure, named by its place in the study file.

    Args:
        place: Such as ``measure.accuracy``.
    """
    try:
        yield
    except ConfigError as error:
        argument = f"{place}.{error.argument}".removesuffix(".key")
        raise ConfigError(argument, error.given, error.allowed) from error


@dataclass(frozen=True)
class Measure:
    """What is read from a run.

    Args:
        key: A logged key (``val/loss``), or a dotted path into ``report.json`` (``wall_seconds``,
            ``callbacks.Forgetting.average``).
        take: Which of the logged values: ``last``, ``first``, ``min``, ``max``, ``best`` (``min`` of a loss, else
            ``max``), ``mean``, ``late(0.2)`` (mean of the last fifth of the run), ``at(0.1)`` (the value nearest to a
            tenth of it).
        stage: Stage of the study whose run is read; None reads the last one.
    """

    key: str
    take: str = "last"
    stage: str | None = None

    def __post_init__(self) -> None:
        """Refuse a way of taking that is not known."""
        found = re.fullmatch(r"last|first|min|max|best|mean|(late|at)\((\d*\.?\d+)\)", self.take)
        if not found or (found[2] and not 0 <= float(found[2]) <= 1):
            raise ConfigError("take", self.take, f"{TAKES} with a fraction from 0 to 1")

    @classmethod
    def of(cls, spec: "str | Mapping[str, Any]") -> "Measure":
        """From YAML: a key, or ``{key: ..., take: ..., stage: ...}``."""
        if isinstance(spec, str):
            return cls(spec)
        if not isinstance(spec, Mapping) or "key" not in spec:
            raise ConfigError("key", None, "a key that runs log: {key: ..., take: ..., stage: ...}")
        return from_mapping(cls, spec)

    def read(self, folder: Path) -> float:
        """The value in a run folder; no number for a run that diverged.

        Raises:
            ConfigError: The run did not report it; the message lists what it did. Or it did not come to its end.
        """
        from lit_ft.running.metrics_file import read_history
        from lit_ft.running.report import ENDED, read_report

        history, report = read_history(folder / "metrics.csv"), read_report(folder)
        if report.get("status", "finished") not in ENDED:
            raise ConfigError("key", self.key, f"a run that came to its end; {folder} is {report['status']}")
        if report.get("status") == "diverged":
            return math.nan
        if self.key in history:
            return self._from_curve(history)
        if self.key in report.get("metrics", {}):
            return float(report["metrics"][self.key])
        value: Any = report
        for part in self.key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)):
            return float(value)
        known = sorted({*history, *report.get("metrics", {}), *_paths(report.get("callbacks", {}), "callbacks")})
        raise ConfigError("key", self.key, f"{', '.join(known)}{nearest(self.key, known)}")

    def _from_curve(self, history: "History") -> float:
        steps, values = history[self.key]
        end = max(max(s) for s, _ in history.values())
        name, _, fraction = self.take.rstrip(")").partition("(")
        if name == "at":
            return min(zip(steps, values, strict=True), key=lambda pair: abs(pair[0] - float(fraction) * end))[1]
        if name == "late":
            late = [v for s, v in zip(steps, values, strict=True) if s >= (1 - float(fraction)) * end] or values[-1:]
            return sum(late) / len(late)
        if name == "best":
            name = "min" if "loss" in self.key else "max"
        ways = {"last": values[-1], "first": values[0], "min": min(values), "max": max(values)}
        return ways[name] if name in ways else sum(values) / len(values)


def _paths(node: Any, path: str) -> list[str]:
    if isinstance(node, Mapping):
        return [p for key, value in node.items() for p in _paths(value, f"{path}.{key}")]
    return [path] if isinstance(node, (int, float)) else []
