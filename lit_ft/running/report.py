"""The report of a run as numbers: ``report.json``."""

import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.running.files import write_text
from lit_ft.running.metrics_file import History

ENDED = ("finished", "diverged")  # what the report says of a run that came to its end
PACKAGES = ("lit-ft", "lightning", "torch", "transformers", "torchmetrics", "datasets", "peft", "jsonargparse")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence a result.

    Example:
        >>> versions()["python"] == platform.python_version(), "torch" in versions()
        (True, True)
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether files differ from it; None outside a repository.

    Example:
        >>> git_state() is None  # here, outside of a repository
        True
    """
    try:
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def read_report(folder: Path) -> dict[str, Any]:
    """The numbers of a run so far; empty if there is no report.

    Raises:
        ConfigError: The file is no report.

    Example:
        >>> read_report(Path("run"))
        {}
        >>> write_report(Path("run"), {"name": "run", "metrics": {"val/loss": 2.25}})
        >>> read_report(Path("run"))["metrics"]
        {'val/loss': 2.25}
    """
    path = folder / "report.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "report.json", str(path), "a report as a run writes it; without the file it is none"
        ) from error


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json``.

    See also: :func:`read_report`.

    Example:
        >>> write_report(Path("run"), {"name": "run", "steps": 3})
        >>> print((Path("run") / "report.json").read_text(), end="")
        {
          "name": "run",
          "steps": 3
        }
    """
    write_text(folder / "report.json", json.dumps(report, indent=2, default=float) + "\n")


def final_values(history: History) -> dict[str, float]:
    """The last value of every logged key.

    Example:
        >>> final_values({"train/loss": ([1, 2], [2.5, 2.0]), "val/loss": ([2], [2.25])})
        {'train/loss': 2.0, 'val/loss': 2.25}
    """
    return {key: values[-1] for key, (_, values) in sorted(history.items())}
