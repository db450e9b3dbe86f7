"""Whether claims hold, do not hold, are not decided by the seeds there are, or cannot be tested in this setting."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lit_ft.studies.atoms import Atom, atoms
from lit_ft.studies.expression import Values, parse
from lit_ft.studies.interval import seeds_for, t_interval

HOLDS, FAILS, OPEN, UNTESTABLE = "holds", "does not hold", "not decided", "not testable here"
NOTHING = "nothing expected"
LEVEL = 0.95  # of a claim
FEWEST = 5  # seeds of a verdict: an interval of fewer says more of luck in its spread than of the claim


@dataclass
class Judged:
    """One statement and what the runs say of it.

    Args:
        text: The statement.
        verdict: holds, does not hold, or not decided.
        mean: Mean over seeds of what is compared; of a ratio the geometric one.
        low: Lower end of its interval.
        high: Upper end of its interval.
        level: Level of the interval: that of the claim, shared among its statements.
        seeds: How many seeds there are.
        wanted: How many seeds might decide it, where it is not decided.
    """

    text: str
    verdict: str
    mean: float | None
    low: float | None
    high: float | None
    level: float
    seeds: int
    wanted: int | None = None

    def numbers(self) -> str:
        """The mean with its interval, in words."""
        if self.mean is None:
            return "no number"
        if self.low is None or self.high is None:
            return f"{self.mean:.3g} (one seed)"
        level = "" if self.level == LEVEL else f" at {100 * self.level:.3g} %"
        wanted = f", {self.wanted} seeds might decide" if self.wanted else ""
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]{level}{wanted}"


@dataclass
class ClaimVerdict:
    """A claim and its verdict.

    Args:
        says: The claim in a sentence.
        verdict: holds, does not hold, not decided, or not testable here.
        main: Whether it is the one that the study is about.
        judged: Its statements.
        given: Its preconditions.
        diverged: Seeds without a number, by arm.
    """

    says: str
    verdict: str
    main: bool
    judged: list[Judged]
    given: list[Judged] = field(default_factory=list)
    diverged: dict[str, int] = field(default_factory=dict)

    @property
    def is_settled(self) -> bool:
        """Whether further seeds are not waited for: it is decided, or a diverged seed leaves it open for good."""
        return self.verdict != OPEN or bool(self.diverged)

    def headline(self) -> str:
        """What decides, with its numbers."""
        if self.diverged:
            return ", ".join(f"{count} diverged in {arm}" for arm, count in self.diverged.items())
        if self.verdict == UNTESTABLE:
            return "; ".join(f"`{one.text}`: {one.numbers()}" for one in self.given if one.verdict == FAILS)
        if not self.judged:
            return ""
        worst = min(self.judged, key=lambda one: (FAILS, OPEN, HOLDS).index(one.verdict))
        return f"`{worst.text}`: {worst.numbers()}"

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ClaimVerdict:
        """From a file."""
        parts = {key: [Judged(**one) for one in content[key]] for key in ("judged", "given")}
        return cls(**{**{key: value for key, value in content.items() if key != "headline"}, **parts})


def level_of(statements: int, looks: int = 1) -> float:
    """Level of the interval of one statement (Bonferroni), where a claim has several and may be judged several times.

    Whatever the number of seeds at each look, a true claim that is judged at every one of them is called false with a
    probability of at most 5 % in all.

    Example:
        >>> level_of(1), level_of(2), level_of(1, looks=4)
        (0.95, 0.975, 0.9875)
    """
    return 1 - (1 - LEVEL) / (max(1, statements) * looks)


def judge_claim(
    says: str, expect: Sequence[str], given: Sequence[str], main: bool, values: Values, looks: int = 1
) -> ClaimVerdict:
    """Judge a claim by Student's t intervals over seeds.

    Each statement has an interval at the level of the claim shared among them and among looks: :func:`level_of`. One
    whose whole interval lies where it is said to be *holds*, one whose interval lies wholly elsewhere *does not hold*,
    else it is *not decided*, as with fewer than five seeds. The claim holds if all of them do, and does not if one does
    not. A precondition is judged at its mean; where one fails the claim is *not testable here*. A diverged seed in one
    of the arms leaves all of it undecided.

    Args:
        says: The claim in a sentence.
        expect: Expectations; all must hold.
        given: What must be true for the claim to be tested at all.
        main: Whether it is the main one.
        values: ``values[arm][measure]``, vectors over the same seeds in the same order.
        looks: How often it may be judged, with more seeds each time, until it is decided.
    """
    split = [atom for text in expect for atom in atoms(text)]
    level = level_of(len(split), looks)
    diverged = diverged_seeds([*expect, *given], values)
    judged = [judge(atom, values, level) for atom in split]
    conditions = [at_its_mean(judge(atom, values, LEVEL), atom, values) for text in given for atom in atoms(text)]
    verdicts = {one.verdict for one in judged}
    if not split:
        verdict = NOTHING
    elif diverged:
        verdict = OPEN
    elif any(one.verdict == FAILS for one in conditions):
        verdict = UNTESTABLE
    else:
        verdict = FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
    return ClaimVerdict(says, verdict, main, judged, conditions, diverged)


def judge(atom: Atom, values: Values, level: float = LEVEL) -> Judged:
    """Judge one statement by its interval at a level."""
    over_seeds = np.atleast_1d(atom.over_seeds(values))
    seeds, interval = len(over_seeds), t_interval(over_seeds, level)
    if not np.isfinite(over_seeds).all():
        return Judged(atom.text, OPEN, None, None, None, level, seeds)
    shown = atom.shown(interval)
    if seeds < 2:
        return Judged(atom.text, OPEN, shown.mean, None, None, level, seeds, FEWEST)
    said = atom.says_of(interval) if seeds >= FEWEST else None
    verdict = OPEN if said is None else HOLDS if said else FAILS
    wanted = None
    if verdict == OPEN and (distance := atom.distance(interval.mean)) > 0:
        needed = seeds_for(distance, float(over_seeds.std(ddof=1)), level)
        wanted = None if needed is None else max(FEWEST, needed)
    return Judged(atom.text, verdict, shown.mean, shown.low, shown.high, level, seeds, wanted)


def at_its_mean(judged: Judged, atom: Atom, values: Values) -> Judged:
    """A precondition: it is met or not by its mean, whatever its interval."""
    mean = float(np.mean(atom.over_seeds(values)))
    if not math.isfinite(mean):
        return judged
    point = t_interval([mean, mean])
    judged.verdict, judged.wanted = HOLDS if atom.says_of(point) else FAILS, None
    return judged


def diverged_seeds(texts: Sequence[str], values: Values) -> dict[str, int]:
    """How many seeds of each arm that is named have no number in a measure that is named."""
    found: dict[str, np.ndarray] = {}
    for text in texts:
        for node in ast.walk(parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                lost = ~np.isfinite(values[node.value.id][node.attr])
                found[node.value.id] = found.get(node.value.id, np.zeros_like(lost)) | lost
    return {arm: int(lost.sum()) for arm, lost in found.items() if lost.any()}


def plain(claims: Sequence[ClaimVerdict]) -> list[dict[str, Any]]:
    """As it is written into a file."""
    return [{**asdict(claim), "headline": claim.headline()} for claim in claims]


def main_of(claims: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """The claim that a study is about."""
    return next(claim for claim in claims if claim.main)
