"""Whether a claim holds, does not hold, or is not decided by the seeds there are."""

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lit_ft.studies.expression import NoNumber, Values, evaluate, parse, scalar

HOLDS, FAILS, OPEN, NOTHING = "holds", "does not hold", "not decided", "nothing expected"
RESAMPLES = 2000
TAIL = 0.025  # on each side of the interval


@dataclass
class Judged:
    """One expectation and what the runs say of it.

    Args:
        expect: The expression.
        verdict: holds, does not hold, or not decided.
        share: Share of paired bootstrap resamples over seeds in which it is true.
        sides: What is compared, constants left out: ``{text: [mean over seeds, lower end, upper end]}`` with the ends
            of the 95 % bootstrap interval; without ends for one seed. Empty where there is no single comparison.
    """

    expect: str
    verdict: str
    share: float
    sides: dict[str, list[float]]

    def numbers(self) -> str:
        """The sides with their intervals, in words."""
        if not self.sides:
            return f"true in {100 * self.share:.0f} % of resamples"
        return " against ".join(
            f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else f"{value:.3g} (one seed)"
            for value, *ends in self.sides.values()
        )


def judge(text: str, values: Values, seeds: int) -> Judged:
    """Judge one expectation by a paired bootstrap over seeds.

    True at the measured values and in at least 97.5 % of the resamples, so that the 95 % interval lies on one side of
    the threshold: *holds*. False and true in at most 2.5 %: *does not hold*. Else the interval crosses the threshold:
    *not decided*. One seed decides by its value alone, and the numbers say so; of three seeds all must agree, as each
    is drawn thrice in 3.7 % of the resamples. What is said of no number, as the loss of a run that diverged, is not
    true, whether with a ``not`` or without.

    Args:
        text: The expression.
        values: ``values[arm][measure]``, vectors over the same seeds in the same order.
        seeds: Their number.
    """
    node = parse(text)
    compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    sides = {
        ast.unparse(side): side for side in compared if not isinstance(side, (ast.Constant, ast.List, ast.UnaryOp))
    }
    truths, samples = [], {name: [] for name in sides}  # type: tuple[list[bool], dict[str, list[float]]]
    with np.errstate(all="ignore"):
        for draw in _draws(seeds):
            resampled = {arm: {name: np.asarray(v)[draw] for name, v in own.items()} for arm, own in values.items()}
            truths.append(_truth(node, resampled))
            for name, side in sides.items():
                samples[name].append(scalar(evaluate(side, resampled)))
        share, measured = float(np.mean(truths)), _truth(node, values)
        verdict = OPEN
        if measured and share >= 1 - TAIL:
            verdict = HOLDS
        elif not measured and share <= TAIL:
            verdict = FAILS
        shown = {name: [scalar(evaluate(side, values)), *_ends(samples[name])] for name, side in sides.items()}
    return Judged(text, verdict, share, shown)


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Both ends of the 95 % bootstrap interval of a mean over seeds, as verdicts have it; nothing for one seed."""
    return _ends(np.asarray(values)[_draws(len(values))].mean(1))


def _draws(seeds: int) -> np.ndarray:
    """Numbers of seeds, one resample a row."""
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds)) if seeds > 1 else np.zeros((1, 1), int)


def _ends(samples: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    with np.errstate(all="ignore"):  # runs that diverged
        return tuple(map(float, np.quantile(samples, [TAIL, 1 - TAIL]))) if len(samples) > 1 else ()


def _truth(node: ast.expr, values: Values) -> bool:
    try:
        return bool(evaluate(node, values))
    except NoNumber:
        return False


def overall(judged: Sequence[Judged]) -> str:
    """A claim holds when all its expectations hold, and does not when one of them does not."""
    if not judged:
        return NOTHING
    verdicts = {one.verdict for one in judged}
    if FAILS in verdicts:
        return FAILS
    return OPEN if OPEN in verdicts else HOLDS


def headline(judged: Sequence[Judged]) -> str:
    """The expectation that decides, with its numbers."""
    if not judged:
        return ""
    worst = min(judged, key=lambda one: (FAILS, OPEN, HOLDS).index(one.verdict))
    return f"`{worst.expect}`: {worst.numbers()}"


def plain(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """As it is written into a file."""
    return [asdict(one) for one in judged]
