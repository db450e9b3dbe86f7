"""``lit-ft study`` and ``lit-ft compare``."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_ft.command.request import YamlFile, folder_name
from lit_ft.core.errors import ConfigError
from lit_ft.core.yaml_text import read_yaml, write_yaml
from lit_ft.running.files import write_text
from lit_ft.running.processes import warm_up
from lit_ft.studies.checkout import is_held, run_held
from lit_ft.studies.code import late_imports
from lit_ft.studies.conduct import run_study, shown
from lit_ft.studies.study import Study, parse_seeds
from lit_ft.studies.verdict import HOLDS

EVERYTHING = "lit_ft.command.everything"  # what the process that runs are forked from imports first


def study_command(argv: Sequence[str]) -> int:
    """Run studies and print their verdicts; status 0 for any verdict unless ``--strict``, 1 when runs failed."""
    parser = argparse.ArgumentParser("lit-ft study", description="Arms x seeds as real runs, then the verdict.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="study files")
    parser.add_argument("--only", metavar="ARM", action="append", help="make the runs of this arm alone; no verdict")
    parser.add_argument("--quick", action="store_true", help="two steps a run and one seed: does it run at all")
    parser.add_argument(
        "--show", "--dry-run", action="store_true", help="what the arms resolve to, and what would be run; no run"
    )
    parser.add_argument("--strict", action="store_true", help="status 1 unless every claim holds")
    parser.add_argument("--record", action="store_true", help="write the result beside the studies, to be committed")
    parser.add_argument("--confirm", action="store_true", help="one seed again: does the record hold for this code")
    _shared(parser)
    options = parser.parse_args(list(argv))
    studies = [Study.load(file) for file in options.files]  # all of them are read before the first runs
    if options.show:
        print("\n".join(line for study in studies for line in shown(study, options)))
        return 0
    warm_up([EVERYTHING, *late_imports(name for study in studies for name in study.class_names())])
    results = [
        (run_held if is_held(study, options) else run_study)(study, options, Path(file))
        for study, file in zip(studies, options.files, strict=True)
    ]
    if any(result is None for result in results):
        return 1
    verdicts = [claim["verdict"] for result in results for claim in (result or {}).get("claims", ())]
    return 0 if not options.strict or all(verdict == HOLDS for verdict in verdicts) else 1


def compare_command(argv: Sequence[str]) -> int:
    """Write a study of the user's own, without a paper, and run it."""
    parser = argparse.ArgumentParser("lit-ft compare", description="Several overlays over one base, compared.")
    parser.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="base, as for fit")
    parser.add_argument("--arm", action="append", required=True, metavar="NAME:[FILE]", help="an arm and its overlay")
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="KEY[@TAKE]",
        help="test/accuracy; else what is watched",
    )
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
    options, further = parser.parse_known_args(list(argv))
    trainer, configs = trainer_of(further), [YamlFile.read("--config", file).tree or {} for file in options.config]
    says = f"comparison of {', '.join(arm.partition(':')[0] for arm in options.arm)}"
    content: dict[str, Any] = {"claims": [{"says": says, "expect": options.expect, "main": True}]}
    content["base"] = options.config
    content["arms"] = {}
    for arm in options.arm:
        name, _, file = arm.partition(":")
        if name in content["arms"]:
            raise ConfigError("--arm", arm, "a name that no arm before it has")
        overlay = (YamlFile.read("--arm", file).tree if file else None) or {}
        content["arms"][name] = overlay | ({"trainer": (overlay.get("trainer") or {}) | trainer} if trainer else {})
    content["seeds"] = parse_seeds("1" if options.seeds is None else options.seeds)
    content["measure"] = {}
    for text in options.measure or [watched_key(configs)]:
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


def trainer_of(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``--trainer.KEY VALUE`` says for every arm.

    Example:
        >>> trainer_of(["--trainer.max_steps=5", "--trainer.precision", "bf16-true"])
        {'max_steps': 5, 'precision': 'bf16-true'}
        >>> trainer_of(["--model.width=5"])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: lit-ft compare: given '--model.width=5'; allowed: its own options, and ...
    """
    found: dict[str, Any] = {}
    pending = iter(arguments)
    for argument in pending:
        flag, given, value = argument.partition("=")
        key = flag.removeprefix("--trainer.")
        value = value if given else next(pending, "")
        if key == flag or not re.fullmatch(r"[a-z_]+", key) or not value:
            allowed = "its own options, and --trainer.KEY=VALUE; what arms change stands in the file of --arm NAME:FILE"
            raise ConfigError("lit-ft compare", argument, allowed)
        found[key] = read_yaml(value)
    return found


def watched_key(configs: Sequence[Mapping[str, Any]]) -> str:
    """The key that configs watch, which is compared where nothing else is said; the last file wins.

    Example:
        >>> watched_key([{"monitor": "val/loss"}, {"trainer": {"callbacks": [{"class_path": "SAM"}]}}])
        'val/loss'
    """
    for config in reversed(configs):
        callbacks = (config.get("trainer") or {}).get("callbacks") or []
        held = [one.get("init_args") or {} for one in callbacks if isinstance(one, Mapping)]
        keys = [config.get("monitor"), *(arguments.get("monitor") for arguments in held)]
        if found := [key for key in keys if key]:
            return str(found[0])
    raise ConfigError("--measure", "nothing", "a logged key, such as val/loss, here or as the monitor of the config")


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", metavar="0-7", help="how many, or which: 0-7, 3, or 2, for seed 2 alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; threads are shared among them")
    parser.add_argument("--launcher", default="local", help="local, or ray: the runs go to a Ray cluster")
    parser.add_argument("--runs", default="runs", help="folder of all runs")
