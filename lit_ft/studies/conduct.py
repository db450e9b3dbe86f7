"""From a study and the options of its command to its runs, their verdict, and what is written of it."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_ft.core.errors import ConfigError, existing
from lit_ft.running.files import write_text
from lit_ft.studies.grid import tuned_lines
from lit_ft.studies.interval import half_width
from lit_ft.studies.launchers import launcher
from lit_ft.studies.pace import forecast
from lit_ft.studies.plan import Planned, Resolver, differing, plan, runs_of, shortened, study_folder
from lit_ft.studies.probe import measured, probe, readable
from lit_ft.studies.progress import progress
from lit_ft.studies.record import as_text, confirmed, gather, is_settled, recorded_seeds, result_of
from lit_ft.studies.runner import FAILED, Launch, Status, make_runs
from lit_ft.studies.staleness import study_digest
from lit_ft.studies.study import Study, parse_seeds
from lit_ft.studies.tuning import Search, choose, chosen, known_choice, plan_tuning, runs_of_search
from lit_ft.studies.verdict import FEWEST, level_of


def run_study(study: Study, options: argparse.Namespace, file: Path) -> dict[str, Any] | None:
    """Make the runs of one study, judge, and write what was found; nothing for a part of it, None when runs failed."""
    recorded = recorded_at(study, file)
    record = _checked(study, options, recorded)
    study = _with_seeds(study, options, record)
    runs, resolver = Path(options.runs), Resolver()
    root = study_folder(study, runs)
    search = {} if options.quick or options.confirm else plan_tuning(study, runs, resolver, options.only or ())
    tuned = record.get("tuned", {}) if options.confirm else known_choice(study, search, record)
    with launcher(options.launcher) as launch:
        planned, asked, kept = _planned(study, options, record, resolver, tuned)
        print(f"{study.name}: {_counted(asked, search, study)}")
        if options.quick:
            return {} if _try(study, asked, options, root, launch) else None
        paces = probe(study, asked, root / "probe", options.jobs, launch)
        print(f"{study.name}: {forecast([*(() if tuned else runs_of_search(search)), *asked], paces, options.jobs)}")
        if search and not tuned:
            if not _made(runs_of_search(search), options, launch, test=False):
                return None
            tuned = choose(study, search)
            planned, asked, kept = _planned(study, options, record, resolver, tuned)
        print("".join(f"{line}\n" for line in tuned_lines(tuned)), end="")
        for count in study.looks:
            seeds = study.seeds[:count]
            block = [run for run in asked if run.seed in seeds]
            if not _made(block, options, launch, study.test, partial(measured, study)):
                return None
            if options.only:
                continue
            if options.confirm:
                result = confirmed(record, study, planned, gather(study, planned, seeds))
            else:
                result = result_of(study, planned, seeds, tuned, record, kept)
            if options.record or options.confirm:
                write_text(recorded, as_text(result))
            if is_settled(result):
                break
    if options.only:
        return {}
    if not options.confirm:
        _publish(study, planned, result, root)
    if options.record or options.confirm:
        print(f"{'confirmed' if options.confirm else 'recorded'}: {recorded}")
    return result


def recorded_at(study: Study, file: Path) -> Path:
    """Where the result of a study is recorded."""
    return file.parent / "results" / f"{study.name}.json"


def _planned(
    study: Study, options: argparse.Namespace, record: Mapping[str, Any], resolver: Resolver, tuned: Mapping[str, Any]
) -> tuple[list[Planned], list[Planned], list[int]]:
    """All runs, those that are asked for, and the seeds that need none, as a record has them."""
    planned = plan(study, Path(options.runs), resolver, chosen(tuned))
    kept = recorded_seeds(record, study, planned) if options.record else []
    wanted = runs_of(options.only, planned) if options.only else planned
    return planned, [run for run in wanted if run.seed not in kept], kept


def shown(study: Study, options: argparse.Namespace) -> list[str]:
    """What the arms of a study resolve to, what its seeds draw, what is tuned, and how many runs it has.

    No run is made and nothing is written; runs that are there count.
    """
    study = _with_seeds(study, options, {})
    with TemporaryDirectory() as scratch:

        def there(planned: Sequence[Planned]) -> list[Planned]:
            return [replace(run, folder=Path(options.runs) / run.folder.relative_to(scratch)) for run in planned]

        resolver = Resolver()
        lines = differing(study, resolver)
        search = plan_tuning(study, Path(scratch), resolver)
        search = {arm: [(point, there(runs)) for point, runs in points] for arm, points in search.items()}
        tuned = known_choice(study, search, {})
        planned = there(plan(study, Path(scratch), resolver, chosen(tuned)))
    if (grid := study.grid) is not None:
        tries = ", ".join(f"{key} {tried}" for key, tried in grid.values.items())
        lines.append(f"tuned by {grid.by.key} ({grid.mode}) with the seeds {grid.seeds}: {tries}")
        lines += [f"  {arm} keeps its {', '.join(keys)}" for arm, keys in grid.fixed.items()]
        lines += tuned_lines(tuned) or ["  what is chosen is not known before these runs are made"]
    lines.append(_counted(planned, search, study))
    lines.append(forecast([*runs_of_search(search), *planned], {}, options.jobs))
    return lines


def decidable(seeds: int, looks: int = 1) -> str:
    """The smallest effect that so many seeds could decide, in standard deviations between seeds.

    Args:
        seeds: How many seeds.
        looks: How often claims may be judged until they are decided.

    Example:
        >>> decidable(8), decidable(2)
        ('8 seeds decide differences above 0.84 standard deviations between seeds', '2 seeds decide nothing, 5 do')
    """
    if seeds < FEWEST:
        return f"{seeds} seeds decide nothing, {FEWEST} do"
    half = half_width(1, seeds, level_of(1, looks))
    return f"{seeds} seeds decide differences above {half:.2g} standard deviations between seeds"


def _with_seeds(study: Study, options: argparse.Namespace, before: Mapping[str, Any]) -> Study:
    if options.confirm:
        return replace(study, seeds=before["seeds"][:1])
    return study if options.seeds is None else replace(study, seeds=parse_seeds(options.seeds))


def _counted(planned: Sequence[Planned], search: Search, study: Study) -> str:
    """How many runs there are, and what they can decide."""
    tried, (*earlier, last) = len(runs_of_search(search)), study.looks
    runs = f"{len(planned)} runs{f', after {tried} that tune' if tried else ''}"
    looks = f"; judged with {', '.join(map(str, earlier))} and {last} of them, until all is decided" if earlier else ""
    return f"{runs}; {decidable(last, len(study.looks))}{looks}"


def _checked(study: Study, options: argparse.Namespace, recorded: Path) -> dict[str, Any]:
    """Refuse options that contradict each other or the study; the record that is to be confirmed."""
    if options.jobs < 1:
        raise ConfigError("--jobs", options.jobs, "a number from 1")
    unknown = [arm for arm in options.only or () if arm not in study.arms]
    if unknown:
        raise ConfigError("--only", unknown[0], ", ".join(study.arms))
    for flag in ("record", "confirm"):
        if getattr(options, flag) and (options.only or options.quick or options.seeds):
            raise ConfigError(f"--{flag}", True, "the whole study with its own seeds")
    if not options.confirm:
        found = options.record and recorded.exists()
        return json.loads(recorded.read_text(encoding="utf-8")) if found else {}
    before = json.loads(existing("--confirm", recorded).read_text(encoding="utf-8"))
    if options.record or before["config_digest"] != study_digest(asdict(study)):
        raise ConfigError("--confirm", study.name, "a study that says what was recorded, without --record")
    if "drawn" not in before and study.seeded is None:
        raise ConfigError("--confirm", study.name, "a record whose seeds drew data; --record makes one")
    return before


def _try(study: Study, planned: Sequence[Planned], options: argparse.Namespace, root: Path, launch: Launch) -> bool:
    """Make two steps of each arm with the first seed, and read the measures; False when some failed, which is said."""
    short = [shortened(run, root / "quick") for run in planned if run.seed == study.seeds[0]]
    statuses = _statuses(short, options, launch, study.test)
    for status in statuses:
        if status.state != FAILED:
            readable(study, status.planned)
    return _told(statuses)


def _made(
    planned: Sequence[Planned], options: argparse.Namespace, launch: Launch, test: bool, check: Any = None
) -> bool:
    """Make runs; False when some failed, which is said."""
    return _told(_statuses(planned, options, launch, test, check))


def _statuses(
    planned: Sequence[Planned], options: argparse.Namespace, launch: Launch, test: bool, check: Any = None
) -> list[Status]:
    with progress() as update:
        return make_runs(planned, options.jobs, test, launch, update, check)


def _told(statuses: Sequence[Status]) -> bool:
    failed = [status for status in statuses if status.state == FAILED]
    for status in failed:
        print(f"failed: {status.planned.label} ({status.planned.folder})\n{status.problem}")
    if failed:
        print(f"no verdict: {len(failed)} of {len(statuses)} runs failed; the others are kept and will be reused")
    return not failed


def _publish(study: Study, planned: Sequence[Planned], result: Mapping[str, Any], root: Path) -> None:
    from lit_ft.studies.report import page, show

    write_text(root / "study.json", as_text(result))
    write_text(root / "study.html", page(study, result, planned))
    show(result)
    print(f"report: {root / 'study.html'}")
