"""The runs of a study: their configurations, their folders, and the key under which a finished one is found again."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_ft.command.request import YamlFile
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.yaml_text import write_yaml
from lit_ft.running.files import sha256, write_text
from lit_ft.studies.code import class_paths, code_digest
from lit_ft.studies.places import PlacedValue, changed, drawn_by_the_seed, is_seed, places, read_name
from lit_ft.studies.study import Study

IRRELEVANT = ("devices", "accelerator", "logger", "default_root_dir", "enable_progress_bar", "enable_model_summary")


@dataclass
class Planned:
    """One run to be made.

    Args:
        arm: Its arm.
        seed: Its seed.
        stage: Name of its stage; empty when there is one.
        args: Arguments of ``lit-ft fit``.
        folder: Its run folder, named after the key.
        key: Digest of its resolved configuration, data and code.
        config: The resolved configuration.
        after: Run folder whose weights it starts from.
        final: Whether it is of the last stage.
        drawn: Names of the values that take its seed, beside ``seed_everything``.
    """

    arm: str
    seed: int
    stage: str
    args: list[str]
    folder: Path
    key: str
    config: dict[str, Any]
    after: Path | None = None
    final: bool = True
    drawn: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Arm, seed and stage."""
        return f"{self.arm} seed {self.seed}{f' {self.stage}' if self.stage else ''}"


def study_folder(study: Study, runs: Path) -> Path:
    """Where the runs and the result of a study are."""
    return runs / "studies" / study.name


def plan(study: Study, runs: Path) -> list[Planned]:
    """All runs of a study, earlier stages first; those that arms share appear once.

    Args:
        study: The study.
        runs: Folder of all runs.

    Raises:
        ConfigError: Two arms have the same resolved configuration, or nothing takes the seed that ``seeded`` names.
    """
    root = study_folder(study, runs)
    planned: dict[Path, Planned] = {}
    arm_of: dict[str, str] = {}
    known: dict[str, None] = {}
    stages = study.stages or [{"name": "", "config": ""}]
    for arm, overrides in study.arms.items():
        folders: dict[tuple[str, int], Path] = {}
        for stage in stages:
            last = stage is stages[-1]
            files = [*study.base, *([stage["config"]] if stage["config"] else [])]
            if own := last or bool(study.overrides(arm, stage["name"])):
                files.append(str(_overlay(study, arm, stage["name"], root / "arms")))
            layers = [part for file in files for part in ("-c", file)]
            resolved = _resolve([*layers, "--seed_everything=0"])
            drawn = drawn_by_the_seed(resolved, [YamlFile.read("base", file).tree for file in files], study.seeded)
            known |= dict.fromkeys(place.name for place in places(resolved))
            for seed in study.seeds:
                config = {**changed(resolved, {place.steps: seed for place in drawn}), "seed_everything": seed}
                after = folders.get((stage.get("from", ""), seed))
                key = run_key(config, after)
                name = _name(seed, stage["name"], key)
                folder = root / (arm if last else "shared") / name
                if last and (same := arm_of.setdefault(name, arm)) != arm:
                    raise ConfigError(f"arms.{arm}", overrides, f"overrides that make it differ from arm {same}")
                folders[stage["name"], seed] = folder
                if folder not in planned:
                    file = root / "arms" / f"{_name(seed, stage['name'], arm if own else 'shared')}.yaml"
                    args = [*layers, *_drawing(config, drawn, file), f"--seed_everything={seed}"]
                    names = tuple(dict.fromkeys(place.name for place in drawn))
                    planned[folder] = Planned(arm, seed, stage["name"], args, folder, key, config, after, last, names)
    for given in study.seeded or ():
        if read_name(given) not in known:
            raise ConfigError("seeded", given, f"a value of a configuration{nearest(read_name(given), known)}")
    return list(planned.values())


def _resolve(args: Sequence[str]) -> dict[str, Any]:
    from lit_ft.command.preload import quick_imports

    with quick_imports(for_good=True):
        from lit_ft.command.run import resolve
    return resolve(args)


def _drawing(config: Mapping[str, Any], drawn: Sequence[PlacedValue], file: Path) -> list[str]:
    """The arguments that give a run the seeds of its data and choices: its sections in full, where they have one."""
    sections = {str(place.steps[0]): config[str(place.steps[0])] for place in drawn}
    if not sections:
        return []
    write_text(file, f"# {', '.join(dict.fromkeys(place.name for place in drawn))}\n{write_yaml(sections)}")
    return ["-c", str(file)]


def drawn_keys(planned: Sequence[Planned]) -> list[str]:
    """What the seed of a study draws in its runs."""
    return list(dict.fromkeys(name for run in planned for name in run.drawn))


def what_seeds_draw(drawn: Sequence[str]) -> str:
    """A line that says what differs between seeds beside weights and what is random in training.

    Example:
        >>> what_seeds_draw(["data.seed"]), what_seeds_draw([])
        ('each seed draws data.seed', 'each seed draws weights and what is random in training, and no data')
    """
    return f"each seed draws {', '.join(drawn) or 'weights and what is random in training, and no data'}"


def differing(study: Study) -> list[str]:
    """Lines that say what each arm resolves to in its last stage, where the arms differ, and what the seeds draw."""
    with TemporaryDirectory() as runs:
        planned = plan(replace(study, seeds=study.seeds[:1]), Path(runs))
    arms = {run.arm: {place.full: place.value for place in places(run.config)} for run in planned if run.final}
    lines = [f"{study.name}, seed {study.seeds[0]}"]
    for key in dict.fromkeys(key for leaves in arms.values() for key in leaves):
        values = {arm: leaves.get(key, "-") for arm, leaves in arms.items()}
        if len({repr(value) for value in values.values()}) > 1:
            lines += [key, *(f"  {arm}: {value}" for arm, value in values.items())]
    lines.append(
        f"each seed draws {', '.join(drawn_keys(planned)) or 'no data: only weights and what is random in training'}"
    )
    for run in planned:
        stand = [place for place in places(run.config) if is_seed(place) and place.name not in run.drawn]
        lines += [f"{run.label}: {place.name} is {place.value} in every run, as it is written" for place in stand]
    return lines


def runs_of(arms: Collection[str], planned: Sequence[Planned]) -> list[Planned]:
    """The runs of some arms, with the earlier stages that they start from."""
    wanted: set[Path] = set()
    for run in reversed(planned):
        if (run.final and run.arm in arms) or run.folder in wanted:
            wanted |= {run.folder, *([run.after] if run.after else [])}
    return [run for run in planned if run.folder in wanted]


def _overlay(study: Study, arm: str, stage: str, folder: Path) -> Path:
    """What an arm changes in a stage, as a config."""
    file = folder / f"{arm}{f'-{stage}' if stage in study.stage_names[:-1] else ''}.yaml"
    content = write_yaml(study.overrides(arm, stage))
    write_text(file, f"# arm {arm} of {study.name}\n{content}")
    return file


def _name(seed: int, stage: str, key: str) -> str:
    return "-".join(part for part in (f"seed{seed}", stage, key[:10]) if part)


def shortened(run: Planned, root: Path) -> Planned:
    """The same run with two steps, one batch of each evaluation and every value logged: shows whether it works.

    Args:
        run: The run.
        root: Folder in which the short run gets its own.
    """
    trainer = run.config.get("trainer") or {}
    batches = 2 * int(trainer.get("accumulate_grad_batches") or 1)
    args: dict[str, float] = {
        "max_steps": 2,
        "limit_train_batches": batches,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    args |= {"val_check_interval": 1.0, "check_val_every_n_epoch": 1}
    args |= {key: 1 for key in ("limit_val_batches", "limit_test_batches") if trainer.get(key) != 0}
    flags = [f"--trainer.{key}={value}" for key, value in args.items()]
    return replace(run, args=[*run.args, *flags], folder=_short(run.folder, root), after=_short(run.after, root))


def _short(folder: Path | None, root: Path) -> Any:
    return None if folder is None else root / folder.parent.name / folder.name


def run_key(config: Mapping[str, Any], after: Path | None) -> str:
    """Digest of what decides a run: configuration, contents of its data, code of its classes, what came before."""
    relevant = {k: v for k, v in config.items() if k != "trainer"}
    relevant["trainer"] = {k: v for k, v in (config.get("trainer") or {}).items() if k not in IRRELEVANT}
    parts = {
        "config": relevant,
        "data": {path: sha256(Path(path)) for path in sorted(set(_data_files(config)))},
        "code": code_digest(tuple(sorted(set(class_paths(config))))),
        "after": None if after is None else after.name,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _data_files(node: Any) -> Iterator[str]:
    """Files that the configuration names; folders (networks) count by name alone."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _data_files(value)
    elif isinstance(node, list):
        for value in node:
            yield from _data_files(value)
    elif isinstance(node, str) and 0 < len(node) < 1000 and Path(node).is_file():
        yield node
