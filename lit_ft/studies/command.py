"""``lit-ft study`` and ``lit-ft compare``."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lit_ft.command.request import YamlFile, folder_name
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.yaml_text import write_yaml
from lit_ft.running.files import write_text
from lit_ft.running.processes import warm_up
from lit_ft.studies.code import late_imports
from lit_ft.studies.interval import half_width
from lit_ft.studies.launchers import launcher
from lit_ft.studies.plan import Planned, differing, plan, runs_of, shortened, study_folder
from lit_ft.studies.probe import measured, probe, readable
from lit_ft.studies.progress import progress
from lit_ft.studies.record import as_text, confirmed, gather, result_of
from lit_ft.studies.runner import FAILED, make_runs
from lit_ft.studies.staleness import study_digest
from lit_ft.studies.study import Study, parse_seeds
from lit_ft.studies.verdict import FEWEST, HOLDS, LEVEL

EVERYTHING = "lit_ft.command.everything"  # what the process that runs are forked from imports first


def study_command(argv: Sequence[str]) -> int:
    """Run studies and print their verdicts; status 0 for any verdict unless ``--strict``, 1 when runs failed."""
    parser = argparse.ArgumentParser("lit-ft study", description="Arms x seeds as real runs, then the verdict.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="study files")
    parser.add_argument("--only", metavar="ARM", action="append", help="make the runs of this arm alone; no verdict")
    parser.add_argument("--quick", action="store_true", help="two steps a run and one seed: does it run at all")
    parser.add_argument("--show", action="store_true", help="what the arms resolve to, where they differ; no run")
    parser.add_argument("--strict", action="store_true", help="status 1 unless every claim holds")
    parser.add_argument("--record", action="store_true", help="write the result beside the studies, to be committed")
    parser.add_argument("--confirm", action="store_true", help="one seed again: does the record hold for this code")
    _shared(parser)
    options = parser.parse_args(list(argv))
    studies = [Study.load(file) for file in options.files]  # all of them are read before the first runs
    if options.show:
        print("\n".join(line for study in studies for line in differing(study)))
        return 0
    warm_up([EVERYTHING, *late_imports(name for study in studies for name in study.class_names())])
    results = [run_study(study, options, Path(file)) for study, file in zip(studies, options.files, strict=True)]
    if any(result is None for result in results):
        return 1
    verdicts = [claim["verdict"] for result in results for claim in (result or {}).get("claims", ())]
    return 0 if not options.strict or all(verdict == HOLDS for verdict in verdicts) else 1


def compare_command(argv: Sequence[str]) -> int:
    """Write a study of the user's own, without a paper, and run it."""
    parser = argparse.ArgumentParser("lit-ft compare", description="Several overlays over one base, compared.")
    parser.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="base, as for fit")
    parser.add_argument("--arm", action="append", required=True, metavar="NAME:[FILE]", help="an arm and its overlay")
    parser.add_argument("--measure", action="append", required=True, metavar="KEY[@TAKE]", help="such as test/accuracy")
    parser.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="EXPRESSION",
        help="what is expected; all of them are one claim",
    )
    parser.add_argument("--name", default="compare", help="name of the study and of its file")
    parser.add_argument("--no-test", action="store_true", help="fit alone")
    _shared(parser)
    options = parser.parse_args(list(argv))
    says = f"comparison of {', '.join(arm.partition(':')[0] for arm in options.arm)}"
    content: dict[str, Any] = {"claims": [{"says": says, "expect": options.expect, "main": True}]}
    content["base"] = options.config
    content["arms"] = {}
    for arm in options.arm:
        name, _, file = arm.partition(":")
        if name in content["arms"]:
            raise ConfigError("--arm", arm, "a name that no arm before it has")
        content["arms"][name] = YamlFile.read("--arm", file).tree if file else {}
    content["seeds"] = parse_seeds("0" if options.seeds is None else options.seeds)
    content["measure"] = {}
    for text in options.measure:
        key, _, take = text.partition("@")
        name = re.sub(r"\W", "_", key)
        name = re.sub(r"\W+", "_", text).strip("_") if name in content["measure"] else name
        content["measure"][name] = {"key": key, "take": take or "last"}
    content["test"] = not options.no_test
    file = Path(options.runs) / "studies" / f"{folder_name(options.name)}.yaml"
    study = Study.of(options.name, content)
    write_text(file, f"# a comparison\n{write_yaml(content)}")
    print(f"study: {file}")
    options.only, options.quick, options.record, options.confirm = None, False, False, False
    warm_up([EVERYTHING, *late_imports(study.class_names())])
    return 1 if run_study(study, options, file) is None else 0


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", metavar="0-7", help="other seeds than those of the file")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; threads are shared among them")
    parser.add_argument("--launcher", default="local", help="local, or ray: the runs go to a Ray cluster")
    parser.add_argument("--runs", default="runs", help="folder of all runs")


def run_study(study: Study, options: argparse.Namespace, file: Path) -> dict[str, Any] | None:
    """Make the runs of one study, judge, and write what was found; nothing for a part of it, None when runs failed."""
    recorded = file.parent / "results" / f"{study.name}.json"
    before = _checked(study, options, recorded)
    if options.confirm:
        study = replace(study, seeds=before["seeds"][:1])
    elif options.seeds is not None:
        study = replace(study, seeds=parse_seeds(options.seeds))
    root = study_folder(study, Path(options.runs))
    planned = plan(study, Path(options.runs))
    if not _make(study, planned, options, root):
        return None
    if options.only or options.quick:
        return {}
    values = gather(study, planned)
    if options.confirm:
        result = confirmed(before, study, planned, values)
    else:
        result = result_of(study, planned, values)
        _publish(study, planned, result, root)
    if options.record or options.confirm:
        write_text(recorded, as_text(result))
        print(f"{'confirmed' if options.confirm else 'recorded'}: {recorded}")
    return result


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
        return {}
    before = json.loads(existing("--confirm", recorded).read_text(encoding="utf-8"))
    if options.record or before["config_digest"] != study_digest(asdict(study)):
        raise ConfigError("--confirm", study.name, "a study that says what was recorded, without --record")
    if "drawn" not in before and study.seeded is None:
        raise ConfigError("--confirm", study.name, "a record whose seeds drew data; --record makes one")
    return before


def _make(study: Study, planned: Sequence[Planned], options: argparse.Namespace, root: Path) -> bool:
    """Make the runs that were asked for; False when some failed, which is said."""
    chosen = runs_of(options.only, planned) if options.only else planned
    print(f"{study.name}: {len(chosen)} runs; {decidable(len(study.seeds))}")
    with launcher(options.launcher) as launch, progress() as update:
        if options.quick:
            chosen = [shortened(run, root / "quick") for run in chosen if run.seed == study.seeds[0]]
        else:
            probe(study, chosen, root / "probe", options.jobs, launch)
        check = None if options.quick else partial(measured, study)
        statuses = make_runs(chosen, options.jobs, study.test, launch, update, check)
    failed = [status for status in statuses if status.state == FAILED]
    for status in failed:
        print(f"failed: {status.planned.label} ({status.planned.folder})\n{status.problem}")
    if failed:
        print(f"no verdict: {len(failed)} of {len(statuses)} runs failed; the others are kept and will be reused")
    for status in statuses if options.quick else ():
        if status not in failed:
            readable(study, status.planned)
    return not failed


def decidable(seeds: int) -> str:
    """The smallest effect that so many seeds could decide, in standard deviations between seeds.

    Example:
        >>> decidable(8), decidable(2)
        ('8 seeds decide differences above 0.84 standard deviations between seeds', '2 seeds decide nothing, 5 do')
    """
    if seeds < FEWEST:
        return f"{seeds} seeds decide nothing, {FEWEST} do"
    return f"{seeds} seeds decide differences above {half_width(1, seeds, LEVEL):.2g} standard deviations between seeds"


def _publish(study: Study, planned: Sequence[Planned], result: Mapping[str, Any], root: Path) -> None:
    from lit_ft.studies.report import page, show

    write_text(root / "study.json", as_text(result))
    write_text(root / "study.html", page(study, result, planned))
    show(result)
    print(f"report: {root / 'study.html'}")
