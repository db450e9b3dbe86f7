"""The runs of a study: their configurations, their folders, and the key under which a finished one is found again."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_ft.command.request import YamlFile
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.yaml_text import write_yaml
from lit_ft.running.files import sha256, write_text
from lit_ft.studies.code import class_paths, code_digest
from lit_ft.studies.places import PlacedValue, Steps, changed, drawn_by_the_seed, is_seed, places, read_name, the_place
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
        tuned: What is tuned, and its values.
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
    tuned: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Arm, seed, stage, and what it was tuned to."""
        tuned = "".join(f", {key} {value}" for key, value in self.tuned.items())
        return f"{self.arm} seed {self.seed}{f' {self.stage}' if self.stage else ''}{tuned}"


def study_folder(study: Study, runs: Path) -> Path:
    """Where the runs and the result of a study are."""
    return runs / "studies" / study.name


class Resolver:
    """Resolves configurations, each once: it is not free, and the runs of a study share most of theirs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(self, files: Sequence[str]) -> dict[str, Any]:
        """What config files make together.

        Args:
            files: Their paths, in order.
        """
        from lit_ft.command.preload import quick_imports

        with quick_imports(for_good=True):
            from lit_ft.command.run import resolve
        if tuple(files) not in self._known:
            self._known[tuple(files)] = resolve([*_layers(files), "--seed_everything=0"])
        return self._known[tuple(files)]

    def tuned(
        self, files: Sequence[str], values: Mapping[str, Any], folder: Path, argument: str
    ) -> tuple[dict[str, Any], list[Steps]]:
        """The same with other values at some places, each as the parser takes it, and those places.

        Args:
            files: Their paths, in order.
            values: Values by the names of their places.
            folder: Where what the parser reads is written.
            argument: Where the names were given, for the error.
        """
        config, taken = self(files), dict[Steps, Any]()
        for key, value in values.items():
            steps = the_place(config, key, argument).steps
            name = hashlib.sha256(repr((files, key, value)).encode()).hexdigest()[:10]
            file = _sections(changed(config, {steps: value}), [steps], folder / f"{key}-{name}.yaml")
            taken[steps] = next(place.value for place in places(self([*files, str(file)])) if place.steps == steps)
        return changed(config, taken), list(taken)


def plan(
    study: Study,
    runs: Path,
    resolver: Resolver | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    folder: str = "",
) -> list[Planned]:
    """All runs of a study, earlier stages first; those that arms share appear once.

    Args:
        study: The study.
        runs: Folder of all runs.
        resolver: Resolves configurations, and keeps them for the next plan.
        settings: Values that arms have been tuned to, by the names of their places, in the last stage.
        folder: Where the runs of the last stage stand in the folder of the study; then those of the arms of
            ``settings`` alone.

    Raises:
        ConfigError: Two arms have the same resolved configuration, or nothing takes the seed that ``seeded`` names.
    """
    root, resolver, settings = study_folder(study, runs), resolver or Resolver(), settings or {}
    planned: dict[Path, Planned] = {}
    arm_of: dict[str, str] = {}
    known: dict[str, PlacedValue] = {}
    stages = study.stages or [{"name": "", "config": ""}]
    for arm in settings if folder else study.arms:
        folders: dict[tuple[str, int], Path] = {}
        for stage in stages:
            last = stage is stages[-1]
            files = [*study.base, *([stage["config"]] if stage["config"] else [])]
            if own := last or bool(study.overrides(arm, stage["name"])):
                files.append(str(_overlay(study, arm, stage["name"], root / "arms")))
            point = settings.get(arm, {}) if last else {}
            resolved, tuned = resolver.tuned(files, point, root / "arms", f"tune: arm {arm}")
            drawn = drawn_by_the_seed(resolved, [YamlFile.read("base", file).tree for file in files], study.seeded)
            known |= {place.full: place for place in places(resolved)}
            for seed in study.seeds:
                config = {**changed(resolved, {place.steps: seed for place in drawn}), "seed_everything": seed}
                after = folders.get((stage.get("from", ""), seed))
                key = run_key(config, after)
                name = _name(seed, stage["name"], key)
                place = root / folder / arm / name if last else root / "shared" / name
                if last and (same := arm_of.setdefault(name, arm)) != arm:
                    said = {**study.arms[arm], **point}
                    raise ConfigError(f"arms.{arm}", said, f"overrides that make it differ from arm {same}")
                folders[stage["name"], seed] = place
                if place not in planned:
                    moved = [*tuned, *(place.steps for place in drawn)]
                    file = root / "arms" / f"{arm if own else 'shared'}-{name}.yaml"
                    args = [*_layers([*files, *([str(_sections(config, moved, file))] if moved else [])])]
                    args.append(f"--seed_everything={seed}")
                    names = tuple(dict.fromkeys(place.name for place in drawn))
                    planned[place] = Planned(
                        arm, seed, stage["name"], args, place, key, config, after, last, names, dict(point)
                    )
    for given in study.seeded or ():
        if not any(place.is_called(given) for place in known.values()):
            close = nearest(read_name(given), [place.name for place in known.values()])
            raise ConfigError("seeded", given, f"a value of a configuration{close}")
    return list(planned.values())


def _layers(files: Sequence[str]) -> list[str]:
    return [part for file in files for part in ("-c", file)]


def _sections(config: Mapping[str, Any], moved: Sequence[Steps], file: Path) -> Path:
    """A config of the sections in which something was changed, in full: lists are not merged."""
    sections = {str(steps[0]): config[str(steps[0])] for steps in moved}
    write_text(file, f"# what the seed draws, and what was tuned\n{write_yaml(sections)}")
    return file


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


def differing(study: Study, resolver: Resolver | None = None) -> list[str]:
    """Lines that say what each arm resolves to in its last stage, where the arms differ, and what the seeds draw."""
    with TemporaryDirectory() as runs:
        planned = plan(replace(study, seeds=study.seeds[:1]), Path(runs), resolver)
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
