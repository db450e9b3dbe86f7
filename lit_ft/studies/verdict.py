"""Whether a claim holds, does not hold, or is not decided by the seeds there are."""

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lit_ft.studies.expression import Values, evaluate, parse, scalar

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass
class Judged:
    """One expectation and what the runs say of it.

    Args:
        expect: The expression.
        verdict: holds, does not hold, or not decided.
        share: Share of paired bootstrap resamples over seeds in which it is true.
        value: Left side of the comparison, by its mean over seeds; None where there is no single comparison.
        interval: Its 95 % bootstrap interval.
    """

    expect: str
    verdict: str
    share: float
    value: float | None = None
    interval: tuple[float, float] | None = None

    def numbers(self) -> str:
        """Value and interval in words."""
        if self.value is None or self.interval is None:
            return f"true in {100 * self.share:.0f} % of resamples"
        low, high = self.interval
        return f"{self.value:.3g} [{low:.3g}, {high:.3g}]"


def judge(text: str, values: Values, seeds: int) -> Judged:
    """Judge one expectation by a paired bootstrap over seeds.

    True at the measured values and in at least 95 % of the resamples: *holds*. False and true in at most 5 %: *does not
    hold*. Else the interval crosses the threshold: *not decided*. One seed decides by its value alone.

    Args:
        text: The expression.
        values: ``values[arm][measure]``, vectors over the same seeds in the same order.
        seeds: Their number.
    """
    node = parse(text)
    draws = np.random.default_rng(0).integers(seeds, size=(RESAMPLES if seeds > 1 else 1, seeds))
    left = node.left if isinstance(node, ast.Compare) else None
    truths, lefts = [], []
    for draw in draws:
        resampled = {arm: {name: np.asarray(v)[draw] for name, v in own.items()} for arm, own in values.items()}
        truths.append(bool(evaluate(node, resampled)))
        if left is not None:
            lefts.append(scalar(evaluate(left, resampled)))
    share, measured = float(np.mean(truths)), bool(evaluate(node, values))
    verdict = OPEN
    if measured and share >= CONFIDENCE:
        verdict = HOLDS
    elif not measured and share <= 1 - CONFIDENCE:
        verdict = FAILS
    if left is None:
        return Judged(text, verdict, share)
    low, high = np.quantile(lefts, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Judged(text, verdict, share, scalar(evaluate(left, values)), (float(low), float(high)))


def overall(judged: Sequence[Judged]) -> str:
    """A claim holds when all its expectations hold, and does not when one of them does not."""
    verdicts = {one.verdict for one in judged}
    if FAILS in verdicts:
        return FAILS
    return OPEN if OPEN in verdicts else HOLDS


def headline(judged: Sequence[Judged]) -> str:
    """The expectation that decides, with its numbers."""
    worst = sorted(judged, key=lambda one: [FAILS, OPEN, HOLDS].index(one.verdict))[0]
    return f"`{worst.expect}`: {worst.numbers()}"


def plain(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """As it is written into a file."""
    return [asdict(one) for one in judged]
