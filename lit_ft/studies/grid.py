"""What a study tunes before its verdict: a grid that is the same for every arm, and the choice among its points."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.plain import fits
from lit_ft.studies.measures import Measure, placed
from lit_ft.studies.places import read_name

Point = dict[str, Any]  # values by their names
OPTIONS = ("by", "mode", "seeds", "fixed")
SEEDS = (1000, 1001, 1002)
LOWER = {"loss", "error", "perplexity", "nll", "mse", "mae", "rmse"}
HIGHER = {"accuracy", "f1", "auc", "auroc", "precision", "recall", "right", "reward", "correlation", "r2"}


@dataclass(frozen=True)
class Grid:
    """Values that are tried for every arm, on seeds of their own and validation rows.

    Args:
        values: ``{model.optimizer.lr: [0.03, 0.1], trainer.callbacks.SAM.rho: [0.05, 0.1]}``: every combination is run.
        by: What is compared: a value of validation rows, its mean over the seeds.
        mode: Whether the lowest (``min``) or the highest (``max``) is the best.
        seeds: Seeds of the runs that are compared; none of them is of the verdict.
        fixed: Keys by arm that keep there what the arm says: those that it has not, or that make it what it is.
    """

    values: dict[str, list[Any]]
    by: Measure
    mode: str
    seeds: list[int]
    fixed: dict[str, list[str]]

    @classmethod
    def of(cls, said: Mapping[str, Any], arms: Sequence[str], seeds: Sequence[int]) -> "Grid":
        """From YAML: ``{KEY: [values], by: val/loss}``, with ``mode``, ``seeds`` and ``fixed`` where they are needed.

        Args:
            said: What stands in the study.
            arms: Names of its arms.
            seeds: Seeds of its verdict.
        """
        values = {read_name(key): value for key, value in said.items() if key not in OPTIONS}
        if not values:
            raise ConfigError(
                "tune", dict(said), "{KEY: [values], by: val/loss}, such as model.optimizer.lr: [0.1, 0.3]"
            )
        for key, tried in values.items():
            if "." not in key:
                raise ConfigError(
                    f"tune.{key}", tried, f"the name of a value, or {', '.join(OPTIONS)}{nearest(key, OPTIONS)}"
                )
            if not isinstance(tried, list) or len(tried) < 2 or len({repr(value) for value in tried}) < len(tried):
                raise ConfigError(f"tune.{key}", tried, "a list of two different values at least")
        if "by" not in said:
            raise ConfigError("tune.by", None, "a value of validation rows, such as val/loss")
        with placed("tune.by"):
            by = Measure.of(said["by"])
        if not re.match(r"val(id(ation)?)?[/_]", by.key):
            raise ConfigError("tune.by", by.key, "a value of validation rows, such as val/loss")
        own = said.get("seeds", list(SEEDS))
        if not fits(own, list[int]) or not own or min(own) < 0 or len(set(own)) < len(own):
            raise ConfigError("tune.seeds", own, "different whole numbers from 0, at least one")
        if common := [seed for seed in own if seed in seeds]:
            raise ConfigError("tune.seeds", common[0], "seeds that the verdict does not have")
        fixed = said.get("fixed", {})
        if not fits(fixed, dict[str, list[str]]):
            raise ConfigError("tune.fixed", fixed, "{ARM: [keys that it keeps]}")
        for arm, keys in fixed.items():
            if arm not in arms:
                raise ConfigError("tune.fixed", arm, f"{', '.join(arms)}{nearest(arm, arms)}")
            for key in keys:
                if read_name(key) not in values:
                    raise ConfigError(f"tune.fixed.{arm}", key, f"{', '.join(values)}{nearest(key, values)}")
        kept = {arm: [read_name(key) for key in keys] for arm, keys in fixed.items()}
        return cls(values, by, _mode(said.get("mode"), by.key), list(own), kept)

    def points(self, arm: str) -> list[Point]:
        """Every combination of the values that an arm is tuned in, the last key changing fastest; none for no key."""
        keys = [key for key in self.values if key not in self.fixed.get(arm, ())]
        return (
            [dict(zip(keys, point, strict=True)) for point in product(*(self.values[key] for key in keys))]
            if keys
            else []
        )

    def choose(self, arm: str, points: Sequence[Point], found: Sequence[Sequence[float]]) -> dict[str, Any]:
        """The best point of an arm by its mean over seeds, the first of equals; with a diverged seed it is the worst.

        Args:
            arm: The arm.
            points: Its points.
            found: What each gave, one number a seed, none for a diverged one.

        Returns:
            ``chosen``, ``points`` with their ``scores`` (None where one diverged), and ``border``: the keys whose
            chosen number is the least or the greatest of the grid.

        Raises:
            ConfigError: All of them diverged.
        """
        means = [sum(numbers) / len(numbers) for numbers in found]
        scores = [mean if math.isfinite(mean) else None for mean in means]
        sign = 1 if self.mode == "min" else -1
        finite = [(sign * score, number) for number, score in enumerate(scores) if score is not None]
        if not finite:
            raise ConfigError("tune", f"no point at which arm {arm} does not diverge", "a grid that has one")
        chosen = points[min(finite)[1]]
        border = [key for key, value in chosen.items() if _at_border(value, self.values[key])]
        return {"chosen": chosen, "points": list(points), "scores": scores, "border": border}

    def said(self) -> dict[str, Any]:
        """As it is recorded."""
        return {"grid": self.values, "by": self.by.key, "take": self.by.take, "mode": self.mode, "seeds": self.seeds,
                "fixed": self.fixed}  # fmt: skip


def tuned_lines(tuned: Mapping[str, Any]) -> list[str]:
    """What was chosen, a line an arm.

    Example:
        >>> found = {"chosen": {"model.optimizer.lr": 0.1}, "scores": [0.4, 0.3], "border": ["model.optimizer.lr"],
        ...          "points": [{"model.optimizer.lr": 0.03}, {"model.optimizer.lr": 0.1}]}
        >>> tuned_lines({"by": "val/loss", "arms": {"sam": found}})
        ['tuned sam: model.optimizer.lr 0.1 (val/loss 0.3); model.optimizer.lr at the border of its grid']
    """
    lines = []
    for arm, found in tuned.get("arms", {}).items():
        chosen = ", ".join(f"{key} {value}" for key, value in found["chosen"].items())
        score = found["scores"][found["points"].index(found["chosen"])]
        border = f"; {', '.join(found['border'])} at the border of its grid" if found["border"] else ""
        lines.append(f"tuned {arm}: {chosen} ({tuned['by']} {score:.4g}){border}")
    return lines


def _mode(said: Any, key: str) -> str:
    """The direction of a value, as it is said, or by the words of its name."""
    if said is not None:
        if said not in ("min", "max"):
            raise ConfigError("tune.mode", said, "min or max")
        return str(said)
    words = set(re.split(r"[^a-z0-9]+", key.lower()))
    if bool(words & LOWER) == bool(words & HIGHER):
        raise ConfigError("tune.mode", None, f"min or max: the name of {key} does not say which is better")
    return "min" if words & LOWER else "max"


def _at_border(value: Any, tried: Sequence[Any]) -> bool:
    numbers = [other for other in tried if type(other) in (int, float)]
    return len(numbers) == len(tried) and value in (min(numbers), max(numbers))
