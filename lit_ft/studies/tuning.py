"""The runs that a study makes before its own, to choose each arm's values from the grid that is the same for all."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.studies.grid import Point
from lit_ft.studies.measures import placed
from lit_ft.studies.plan import Planned, Resolver, plan
from lit_ft.studies.runner import is_complete
from lit_ft.studies.study import Study

Search = dict[str, list[tuple[Point, list[Planned]]]]  # the runs of every point of every arm that is tuned
FOLDER = "tuning"


def plan_tuning(study: Study, runs: Path, resolver: Resolver, arms: Collection[str] = ()) -> Search:
    """The runs of every point of the grid, by arm; empty for a study that tunes nothing.

    Args:
        study: The study.
        runs: Folder of all runs.
        resolver: Resolves configurations, and keeps them.
        arms: Arms to tune; all when empty.

    Raises:
        ConfigError: An arm has no value of that name, does not take what is tried, or does not differ from another arm.
    """
    grid = study.grid
    if grid is None:
        return {}
    points = {arm: grid.points(arm) for arm in study.arms if not arms or arm in arms}
    search: Search = {arm: [] for arm, own in points.items() if own}
    for number in range(max(map(len, points.values()), default=0)):
        settings = {arm: own[number] for arm, own in points.items() if number < len(own)}
        part = replace(study, seeds=grid.seeds, tune={})
        try:
            planned = plan(part, runs, resolver, settings, FOLDER)
        except ConfigError as error:
            if not error.argument.startswith("tune"):
                raise
            allowed = f"{error.allowed}; `fixed: {{ARM: [keys]}}` names what an arm has not, or keeps"
            raise ConfigError(error.argument, error.given, allowed) from error
        for arm, point in settings.items():
            search[arm].append((point, [run for run in planned if not run.final or run.arm == arm]))
    return search


def runs_of_search(search: Search) -> list[Planned]:
    """All of its runs, each once, earlier stages before those that start from them."""
    every = {run.folder: run for points in search.values() for _, runs in points for run in runs}
    return sorted(every.values(), key=lambda run: run.final)


def choose(study: Study, search: Search) -> dict[str, Any]:
    """What the runs of a search say: the grid, and by arm the values that were chosen, with every score."""
    grid, found = study.grid, dict[str, Any]()
    if grid is None:
        return {}
    for arm, points in search.items():
        numbers = []
        for _, runs in points:
            with placed("tune.by"):
                numbers.append([grid.by.read(run.folder) for run in runs if run.final])
        found[arm] = grid.choose(arm, [point for point, _ in points], numbers)
    return {**grid.said(), "arms": found, "runs": digest_of(search)}


def digest_of(search: Search) -> str:
    """Digest of what decides the runs of a search: two of the same digest choose the same."""
    return hashlib.sha256(" ".join(sorted(run.key for run in runs_of_search(search))).encode()).hexdigest()[:20]


def chosen(tuned: Mapping[str, Any]) -> dict[str, Point]:
    """The values of each arm that was tuned."""
    return {arm: found["chosen"] for arm, found in tuned.get("arms", {}).items()}


def known_choice(study: Study, search: Search, record: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, where all runs of the search are there or a record has what they say; else nothing."""
    said: dict[str, Any] = record.get("tuned", {})
    if search and said.get("runs") == digest_of(search):
        return said
    return choose(study, search) if all(is_complete(run.folder) for run in runs_of_search(search)) else {}
