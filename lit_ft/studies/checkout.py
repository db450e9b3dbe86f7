"""A study in blocks that is recorded runs from a checkout of its own, at one commit, until all of it is decided."""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.studies.conduct import recorded_at
from lit_ft.studies.plan import study_folder
from lit_ft.studies.record import is_settled
from lit_ft.studies.staleness import study_digest
from lit_ft.studies.study import Study

FOLDER = "checkout"


def is_held(study: Study, options: argparse.Namespace) -> bool:
    """Whether a study has to run from a checkout of its own, and this process is not in it."""
    place = (study_folder(study, Path(options.runs)) / FOLDER).resolve()
    return study.block is not None and bool(options.record) and not Path.cwd().resolve().is_relative_to(place)


def run_held(study: Study, options: argparse.Namespace, file: Path) -> dict[str, Any] | None:
    """Run a study from its checkout, and take its record over; nothing when runs failed.

    A checkout that is there is gone on with; so is the commit of a record that is not decided yet. It is removed when
    all is decided or the seeds are used up.
    """
    top = Path(git("rev-parse", "--show-toplevel", at=Path.cwd()))
    runs, recorded = Path(options.runs).resolve(), recorded_at(study, file)
    place = study_folder(study, runs) / FOLDER
    commit = held(study, file, place)
    print(f"{study.name}: runs from {place}, at commit {commit[:12]}, until all is decided")
    inside = place / Path.cwd().resolve().relative_to(top)
    mine = inside / recorded_at(study, _relative(file))
    if recorded.exists() and not mine.exists():
        mine.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recorded, mine)
    flags = [f"--jobs={options.jobs}", f"--launcher={options.launcher}", f"--runs={runs}"]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "lit_ft", "study", str(_relative(file)), "--record", *flags], cwd=inside, check=False
        )
    finally:
        if mine.exists():
            recorded.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(mine, recorded)
    if ended.returncode == 130:
        raise KeyboardInterrupt
    if ended.returncode or not recorded.exists():
        return None
    result: dict[str, Any] = json.loads(recorded.read_text(encoding="utf-8"))
    if is_settled(result) or len(result["seeds"]) >= len(study.seeds):
        git("worktree", "remove", "--force", str(place), at=top)
    return result


def held(study: Study, file: Path, place: Path) -> str:
    """The commit that a study is held at, checked out.

    Args:
        study: The study.
        file: Its file.
        place: Where the checkout is, or will be.

    Raises:
        ConfigError: It is in no repository, or what would run is not committed.
    """
    if (place / ".git").exists():
        return git("rev-parse", "HEAD", at=place)
    recorded = recorded_at(study, file)
    record = json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}
    same = bool(record.get("made")) and record["config_digest"] == study_digest(asdict(study))
    undecided = same and len(record["seeds"]) < len(study.seeds) and not is_settled(record)
    commit = record["made"][-1]["commit"] if undecided else None
    if commit is None:
        changed = git("status", "--porcelain", "--untracked-files=no", at=Path.cwd()).splitlines()
        known = git("ls-files", str(_relative(file)), at=Path.cwd())
        if changed or not known:
            given = changed[0].split(maxsplit=1)[1] if changed else f"{file}, which is not committed"
            raise ConfigError("block", given, "a committed state, as a recorded study in blocks names its commit")
        commit = git("rev-parse", "HEAD", at=Path.cwd())
    git("worktree", "prune", at=Path.cwd())
    git("worktree", "add", "--detach", str(place), commit, at=Path.cwd())
    return commit


def git(*args: str, at: Path) -> str:
    """What git says.

    Raises:
        ConfigError: It is not there, the folder is in no repository, or git refuses.
    """
    try:
        done = subprocess.run(["git", *args], cwd=at, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
        raise ConfigError(
            "block", told, "a folder under git: a recorded study in blocks is held at a commit"
        ) from error
    return done.stdout.strip()


def _relative(file: Path) -> Path:
    """A study file as seen from the working folder."""
    return file.resolve().relative_to(Path.cwd().resolve())
