"""A look at every arm before the first run: does it work, and does it report what is to be measured."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lit_ft.core.errors import ConfigError
from lit_ft.running.report import read_report
from lit_ft.studies.code import class_paths
from lit_ft.studies.measures import Measure, placed
from lit_ft.studies.pace import Pace, timed
from lit_ft.studies.plan import Planned, shortened
from lit_ft.studies.runner import DONE, FAILED, Launch, Status, is_complete, make_runs
from lit_ft.studies.study import Study


def probe(study: Study, planned: Sequence[Planned], root: Path, jobs: int, launch: Launch) -> dict[str, Pace]:
    """Make two steps of each arm that has no finished run, and read the measures; one run of each stage is timed.

    Of arms that name the same classes, one that works is enough. A value that a callback reports only later in a run is
    let pass when the callback is there.

    Args:
        study: The study.
        planned: Its runs.
        root: Folder for the short runs; removed again.
        jobs: How many at once.
        launch: How a run is started.

    Returns:
        What a run of each stage takes, where one was made.

    Raises:
        ConfigError: A measure that the runs do not report, or every arm fails.
    """
    read = [run for run in planned if run.final or study.measures_of(run.stage)]
    finished = {(run.arm, run.stage) for run in read if is_complete(run.folder)}
    first = {(run.arm, run.stage): run for run in reversed(read) if (run.arm, run.stage) not in finished}
    waiting, statuses, paces = list(first.values()), list[Status](), dict[str, Pace]()
    try:
        while waiting:
            chosen = {_kind(run): run for run in waiting}
            # the stages before do not decide what is reported
            untimed = {run.stage: run for run in reversed(chosen.values()) if run.stage not in paces}
            short = [
                timed(run, root) if untimed.get(run.stage) is run else replace(shortened(run, root), after=None)
                for run in chosen.values()
            ]
            made = make_runs(short, jobs, study.test, launch)
            worked = {_kind(status.planned) for status in made if status.state == DONE}
            for status in made:
                if status.state == DONE:
                    readable(study, status.planned)
                    if pace := Pace.of(status.seconds, read_report(status.planned.folder)):
                        paces.setdefault(status.planned.stage, pace)
            statuses += made
            waiting = [run for run in waiting if _kind(run) not in worked and run is not chosen[_kind(run)]]
        if statuses and all(status.state == FAILED for status in statuses):
            print(f"failed: {statuses[0].planned.label}\n{statuses[0].problem}")
            raise ConfigError("arms", "runs that all fail, as above", "a configuration that fit accepts")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return paces


def _kind(run: Planned) -> tuple[str, frozenset[str]]:
    """What runs have in common that report the same keys."""
    return run.stage, frozenset(class_paths(run.config))


def readable(study: Study, run: Planned) -> None:
    """Refuse a short run that lacks a measure, or what is to be plotted, unless one of its callbacks may report it."""
    callbacks = {path.rpartition(".")[2] for path in class_paths(run.config.get("trainer") or {})}
    later = {*callbacks, *map(snake, callbacks)}
    wanted = {f"measure.{name}": measure for name, measure in study.measures_of(run.stage).items()}
    if study.plot and run.final:
        wanted["plot"] = Measure(study.plot)
    if study.grid is not None and run.final:
        wanted["tune.by"] = study.grid.by
    for place, measure in wanted.items():
        family = re.split(r"[/.]", measure.key.removeprefix("callbacks."))[0]
        if family not in later:
            with placed(place):
                measure.read(run.folder)


def measured(study: Study, run: Planned) -> None:
    """Refuse a finished run that lacks a measure."""
    for name, measure in study.measures_of(run.stage).items():
        with placed(f"measure.{name}"):
            measure.read(run.folder)


def snake(name: str) -> str:
    """``EdgeOfStability`` as ``edge_of_stability``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
