"""A study: claims, arms, seeds, measures, and what is expected of them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_ft.command.cards import cards
from lit_ft.command.request import YamlFile
from lit_ft.core.errors import ConfigError, existing, nearest
from lit_ft.core.plain import from_mapping
from lit_ft.studies.atoms import atoms
from lit_ft.studies.code import class_paths
from lit_ft.studies.expression import check
from lit_ft.studies.grid import Grid
from lit_ft.studies.measures import Measure, placed
from lit_ft.studies.places import places, read_name
from lit_ft.studies.verdict import FEWEST

PARTS = ("model", "data", "trainer", "stages")  # what an arm may override


@dataclass
class Claim:
    """What a study says, and what of it would be seen.

    Args:
        says: One sentence, as the paper says it.
        expect: Expressions over arms and measures; all must hold.
        main: Whether its verdict is that of the study; exactly one claim is the main one.
        given: Expressions that must be true, at their means, for the claim to be tested at all, beside those of the
            study: the baseline forgets, the gap that is to be closed exists.
    """

    says: str
    expect: list[str] = field(default_factory=list)
    main: bool = False
    given: list[str] = field(default_factory=list)


@dataclass
class Study:
    """What a study file says.

    Args:
        name: Stem of the file.
        claims: ``[{says, expect, main, given}]``, each with a verdict of its own; see :class:`Claim`.
        base: Config files that all arms share, layered as with several ``-c``; relative to the working folder.
        arms: Overrides by arm, in the form of a config; ``{}`` is the base itself, at most once. They apply to the last
            stage; ``stages: {NAME: {...}}`` among them overrides an earlier one for this arm.
        seeds: Seeds that every arm runs with.
        block: So many seeds at a time, until every claim is decided or the seeds are used up; at least five. Claims are
            judged after each block, at a level that allows for all of these looks. With ``--record`` such a study runs
            from a checkout of its own, at one commit. None makes all seeds at once.
        seeded: Values that take the seed as ``seed_everything`` does, in every stage. By default every seed of a
            configuration that no file writes: of splits, generated rows, examples, random masks; so intervals over
            seeds are over rows too. A seed that a file writes stands. A list (``[data.seed]``) names those that
            take it instead, written or not, and ``[]`` none: then the seeds draw weights alone, and the record says so.
        measure: What is read from each run.
        given: Preconditions of all claims, over arms and measures.
        paper: Id of the paper, whose card is ``lit_ft/papers/<id>.yaml``; empty for a comparison of your own.
        tune: ``{KEY: [values], by: val/loss}``: what is chosen for every arm before its runs, from one grid; see
            :class:`~lit_ft.studies.grid.Grid`.
        stages: ``[{name, config, from}]``: runs after one another; ``from`` names an earlier stage whose weights the
            stage starts from.
        test: Whether each run is tested after its fit.
        plot: Logged key whose curves are drawn; None draws the measures by arm.
        scale: What would be changed to run it at the paper's size.
        note: What a reader should know of the outcome.
    """

    name: str
    claims: list[Claim]
    base: list[str]
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    measure: dict[str, Measure]
    given: list[str] = field(default_factory=list)
    paper: str = ""
    block: int | None = None
    seeded: list[str] | None = None
    tune: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, str]] = field(default_factory=list)
    test: bool = True
    plot: str | None = None
    scale: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what could only fail after hours."""
        _check(self)

    @property
    def grid(self) -> Grid | None:
        """What is tuned; None for nothing."""
        return Grid.of(self.tune, list(self.arms), self.seeds) if self.tune else None

    @property
    def looks(self) -> list[int]:
        """How many seeds there are whenever the claims are judged.

        Example:
            >>> study = Study.__new__(Study)
            >>> study.seeds, study.block = list(range(12)), 5
            >>> study.looks
            [5, 10, 12]
        """
        every = len(self.seeds)
        return [*range(self.block, every, self.block), every] if self.block else [every]

    @property
    def stage_names(self) -> list[str]:
        """Names of the stages; empty when there is one."""
        return [stage["name"] for stage in self.stages]

    def overrides(self, arm: str, stage: str) -> dict[str, Any]:
        """What an arm changes in a stage."""
        given = self.arms[arm]
        if stage in self.stage_names[:-1]:
            return given.get("stages", {}).get(stage) or {}
        return {key: value for key, value in given.items() if key != "stages"}

    def measures_of(self, stage: str) -> dict[str, Measure]:
        """What is read from the runs of a stage; from the last one unless a measure says otherwise."""
        last = self.stage_names[-1] if self.stages else ""
        return {name: measure for name, measure in self.measure.items() if (measure.stage or last) == stage}

    def class_names(self) -> Iterator[str]:
        """Names of the classes that its files name, before anything is resolved."""
        yield from class_paths(self.arms)
        for file in [*self.base, *(stage["config"] for stage in self.stages if stage["config"])]:
            yield from class_paths(YamlFile.read("stages.config", file).tree)

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read a study file."""
        content = YamlFile.read("FILE", path).tree
        if not isinstance(content, Mapping):
            raise ConfigError("FILE", str(path), "a mapping with claims, base, arms, seeds, measure")
        return cls.of(Path(path).stem, content)

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> "Study":
        """From the mapping in a file."""
        given = dict(content)
        if "claim" in given or "expect" in given:
            allowed = "claims: [{says: ..., expect: [...], main: true}]; each claim has a verdict of its own"
            raise ConfigError("claim", given.get("claim", given.get("expect")), allowed)
        for key in ("base", "given"):
            given |= _listed(given, key)
        if isinstance(given.get("claims"), list):
            given["claims"] = [_claim(f"claims[{number}]", claim) for number, claim in enumerate(given["claims"])]
            if len(given["claims"]) == 1:
                given["claims"][0].main = True
        if isinstance(given.get("arms"), dict):
            given["arms"] = {arm: overrides or {} for arm, overrides in given["arms"].items()}
        if isinstance(given.get("measure"), dict):
            given["measure"] = dict(given["measure"])
            for key, spec in given["measure"].items():
                with placed(f"measure.{key}"):
                    given["measure"][key] = Measure.of(spec)
        return from_mapping(cls, given, name=name)


def _listed(given: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Single texts as lists of one."""
    return {key: [given[key]] for key in keys if isinstance(given.get(key), str)}


def _claim(place: str, given: Any) -> Claim:
    if isinstance(given, Claim):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(place, given, "{says: ..., expect: [...]}")
    with placed(place):
        return from_mapping(Claim, {**given, **_listed(given, "expect", "given")})


def parse_seeds(text: str) -> list[int]:
    """Seeds from ``0-2,7``; a number alone is how many, from 0 on, and with a comma behind it that seed.

    Example:
        >>> parse_seeds("0-2,7"), parse_seeds("2"), parse_seeds("2,"), parse_seeds("2-2")
        ([0, 1, 2, 7], [0, 1], [2], [2])
    """
    if text.strip().isdecimal():
        return list(range(int(text)))
    seeds: list[int] = []
    for part in text.strip().removesuffix(",").split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not (high.isdecimal() and int(low) <= int(high))):
            raise ConfigError("--seeds", text, "how many (3), or seeds: numbers and ranges (0-2,7; seed 2 alone is 2,)")
        seeds += range(int(low), int(high or low) + 1)
    return seeds


def _check(study: Study) -> None:
    if study.paper not in ("", *cards()):
        allowed = f"the id of a card, such as A1, or no key for a study of your own{nearest(study.paper, cards())}"
        raise ConfigError("paper", study.paper, allowed)
    for key, given in (("arms", study.arms), ("measure", study.measure), ("base", study.base or study.stages)):
        if not given:
            raise ConfigError(key, given, f"at least one {'config file' if key == 'base' else key.removesuffix('s')}")
    for what, given in (("arms", study.arms), ("measure", study.measure)):
        for name in given:
            if not name.isidentifier():
                raise ConfigError(what, name, "names of letters, digits and _, so that expressions can use them")
    for arm, overrides in study.arms.items():
        for key in overrides:
            if key not in PARTS:  # the seed and the folder of a run are the study's
                raise ConfigError(f"arms.{arm}", key, f"the keys {', '.join(PARTS)}{nearest(key, PARTS)}")
        for place in places(overrides):
            if re.sub(r"^stages\.[^.]+\.", "", place.name) in map(read_name, study.seeded or ()):
                raise ConfigError(
                    f"arms.{arm}.{place.name}", place.value, "no value: `seeded` gives it the study's seed"
                )
    _ = study.grid
    empty = [arm for arm, overrides in study.arms.items() if not overrides]
    if len(empty) > 1:
        raise ConfigError(f"arms.{empty[1]}", {}, f"overrides; only one arm can be the base, and {empty[0]} is")
    twice = {seed for seed in study.seeds if study.seeds.count(seed) > 1}
    if twice or not study.seeds or min(study.seeds) < 0:
        raise ConfigError("seeds", study.seeds, "different whole numbers from 0, at least one")
    if study.block is not None and study.block < FEWEST:
        raise ConfigError("block", study.block, f"{FEWEST} or more: fewer seeds decide nothing")
    mains = sum(claim.main for claim in study.claims)
    if mains != 1:
        raise ConfigError("claims", f"{mains} with main: true", "exactly one, whose verdict is that of the study")
    for text in (*study.given, *(text for claim in study.claims for text in (*claim.expect, *claim.given))):
        check(text, study.arms, study.measure)
        atoms(text)
    for file in study.base:
        existing("base", file)
    for number, stage in enumerate(study.stages):
        if not {"name", "config"} <= set(stage) <= {"name", "config", "from"}:
            raise ConfigError(f"stages[{number}]", stage, "the keys name, config and, if it has one before it, from")
    names = study.stage_names
    if len(set(names)) < len(names):
        raise ConfigError("stages", names, "different names")
    for measure in study.measure.values():
        if measure.stage is not None and measure.stage not in names:
            raise ConfigError("measure.stage", measure.stage, f"a stage: {', '.join(names) or 'there is none'}")
    for arm, overrides in study.arms.items():
        for name in (overrides or {}).get("stages", {}):
            if name not in names[:-1]:
                allowed = f"a stage before the last: {', '.join(names[:-1]) or 'there is none'}"
                raise ConfigError(f"arms.{arm}.stages", name, allowed)
    for number, stage in enumerate(study.stages):
        if stage.get("from") and stage["from"] not in names[:number]:
            allowed = f"an earlier stage: {', '.join(names[:number]) or 'there is none'}"
            raise ConfigError(f"stages[{number}].from", stage["from"], allowed)
