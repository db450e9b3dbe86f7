"""The runs of a study: their configurations, their folders, and the key under which a finished one is found again."""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lit_ft.core.errors import ConfigError
from lit_ft.core.files import sha256, write_text
from lit_ft.studies.study import Study

PACKAGE = Path(__file__).parents[1]
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
        final: Whether it is of the last stage, which is tested and measured.
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

    @property
    def label(self) -> str:
        """Arm, seed and stage."""
        return f"{self.arm} seed {self.seed}{f' {self.stage}' if self.stage else ''}"


def plan(study: Study, runs: Path, extra: tuple[str, ...] = ()) -> list[Planned]:
    """All runs of a study, earlier stages first; those that arms share appear once.

    Args:
        study: The study.
        runs: Folder of all runs.
        extra: Further arguments of every run.

    Raises:
        ConfigError: Two arms have the same resolved configuration.
    """
    from lit_ft.run import resolve

    root = runs / "studies" / study.name
    planned: dict[Path, Planned] = {}
    seen: dict[str, str] = {}
    stages = study.stages or [{"name": "", "config": ""}]
    for arm, overrides in study.arms.items():
        overlay = root / "arms" / f"{arm}.yaml"
        write_text(overlay, f"# arm {arm} of {study.name}\n{yaml.safe_dump(overrides, sort_keys=False)}")
        for seed in study.seeds:
            folders: dict[str, Path] = {}
            for stage in stages:
                last = stage is stages[-1]
                files = [
                    *study.base,
                    *([stage["config"]] if stage["config"] else []),
                    *([str(overlay)] if last else []),
                ]
                args = [part for file in files for part in ("-c", file)] + [f"--seed_everything={seed}", *extra]
                config = resolve(args)
                after = folders.get(stage.get("from", ""))
                key = run_key(config, after)
                if last and study.seeds.index(seed) == 0:
                    if key in seen:
                        raise ConfigError(f"arms.{arm}", overrides, f"overrides that differ from arm {seen[key]}")
                    seen[key] = arm
                folder = _folder(root, arm, seed, stage["name"], last, key)
                folders[stage["name"]] = folder
                run = Planned(arm, seed, stage["name"], args, folder, key, config, after, last)
                planned.setdefault(folder, run)
    return list(planned.values())


def _folder(root: Path, arm: str, seed: int, stage: str, last: bool, key: str) -> Path:
    return root / (arm if last else "shared") / "-".join(part for part in (f"seed{seed}", stage, key[:10]) if part)


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


def class_paths(node: Any) -> Iterator[str]:
    """Import paths of all classes in a resolved configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("class_path"), str):
            yield node["class_path"]
        for value in node.values():
            yield from class_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from class_paths(value)


@cache
def code_digest(paths: tuple[str, ...]) -> str:
    """Digest over the code of classes of this package and of all they import of it; comments do not count."""
    files: set[Path] = set()
    waiting = [file for path in paths for file in _files_of(path.rpartition(".")[0], path.rpartition(".")[2])]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += _imported(file)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(PACKAGE)}:{tree_digest(file)}\n".encode())
    return digest.hexdigest()


@cache
def tree_digest(file: Path) -> str:
    """Digest of a file's syntax tree without docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = None
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _files_of(module: str, name: str = "") -> list[Path]:
    """Files of a module of this package; a re-exported name leads on to where it is defined."""
    if module.split(".")[0] != PACKAGE.name:
        return []
    base = PACKAGE.joinpath(*module.split(".")[1:])
    if base.with_suffix(".py").exists():
        return [base.with_suffix(".py")]
    package = base / "__init__.py"
    if not package.exists():
        return []
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _files_of(node.module, name)
    return [package] if not name else []


def _imported(file: Path) -> list[Path]:
    found: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found += _files_of(node.module, alias.name) or _files_of(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found += _files_of(alias.name)
    return found
