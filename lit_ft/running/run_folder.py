"""A run folder among others: who works in it, which start of its name it was, and what is left of a run."""

import errno
import fcntl
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.running.report import read_report

START = (
    ".start"  # locked by who works in the folder; holds the number of the run until its report does, and the machine
)
_held: set[int] = set()


def _leave_to_parent() -> None:
    """A lock is that of the process that took it: workers that outlive it must not hold it."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def held(folder: Path, argument: str = "--run_dir") -> Iterator[None]:
    """Work in a folder alone; the lock ends with the process, however that ends.

    Args:
        folder: It is there already.
        argument: What named it, for the error.

    Raises:
        ConfigError: Another process works in it, or nothing can be written to it.

    Example:
        >>> Path("run").mkdir()
        >>> with held(Path("run")), held(Path("run")):
        ...     pass
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --run_dir: given 'run'; allowed: a folder in which no other process works
    """
    file = _locked(folder, argument)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _locked(folder: Path, argument: str) -> int:
    path = folder / START
    while True:
        try:
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "")
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            allowed = f"a folder to write to, which this one is not ({os.strerror(error.errno or 0).lower()})"
            raise ConfigError(argument, str(folder), allowed) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise ConfigError(argument, str(folder), "a folder in which no other process works") from error
        except OSError:  # a file system that cannot lock
            return file
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # whoever had it has removed it


def remove_half_written(*folders: Path) -> None:
    """Remove the files that a process was writing when it was killed; for whoever has the folders to itself.

    Example:
        >>> for name in (".report.json.123.tmp", ".step=00000003.ckpt.tmp", ".mine.tmp"):
        ...     _ = Path(name).write_text("half")
        >>> remove_half_written(Path())
        >>> [path.name for path in Path().glob(".*.tmp")]
        ['.mine.tmp']
    """
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.(\d+|ckpt)\.tmp", path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def number_of(folder: Path) -> int | None:
    """The number that a run took when it began; None for an evaluation, and for runs of versions without numbers.

    Example:
        >>> Path("started").mkdir()
        >>> take_number(Path("started"), among=Path())
        >>> number_of(Path("started")), number_of(Path("elsewhere"))
        (1, None)
    """
    text = _lines(folder)
    return int(text[0]) if text else report_of(folder).get("number")


def _lines(folder: Path) -> list[str]:
    """What stands in the file of the start: the number, and the machine that works in the folder."""
    start = folder / START
    return start.read_text(encoding="utf-8").split() if start.exists() else []


def note_machine(folder: Path) -> None:
    """Write down on which machine a run goes on; for who holds its folder."""
    if (number := number_of(folder)) is not None:
        with (folder / START).open("r+", encoding="utf-8") as file:  # a kill in between leaves the number
            file.write(f"{number}\n{platform.node()}\n")
            file.truncate()


def status_of(folder: Path) -> str:
    """What a run is: what its report says, or dead where it says running, and the lock says that nobody works there.

    Example:
        >>> from lit_ft.running.report import write_report
        >>> write_report(Path("begun"), {"status": "running"})
        >>> status_of(Path("begun"))  # of Python, where nobody holds a folder
        'running, or dead'
        >>> take_number(Path("begun"), among=Path())
        >>> status_of(Path("begun"))
        'dead'
        >>> with held(Path("begun")):
        ...     status_of(Path("begun"))
        'running'
    """
    status = report_of(folder).get("status", "finished")
    if status != "running":
        return status
    try:
        file = os.open(folder / START, os.O_RDONLY)
    except OSError:
        return "running, or dead"
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except OSError:  # a file system that cannot lock
        return "running, or dead"
    finally:
        os.close(file)
    machine = "".join(_lines(folder)[1:2])
    return "dead" if machine in ("", platform.node()) else f"running, or dead, on {machine}"


def report_of(folder: Path) -> dict[str, Any]:
    """The report of one run among others; of a report that cannot be read, nothing."""
    try:
        return read_report(folder)
    except ConfigError:
        return {}


def take_number(folder: Path, among: Path) -> None:
    """Give a run one number more than the highest, unless it has one.

    Args:
        folder: Its folder, or what will be.
        among: The folder of all runs of its name.

    See also: :func:`number_of`.
    """
    if number_of(folder) is None:
        known = [number_of(other) or 0 for other in among.glob("*") if other.is_dir()]
        (folder / START).write_text(f"{max(known, default=0) + 1}\n", encoding="utf-8")


def is_begun(folder: Path) -> bool:
    """Whether a fit has begun in a folder, however far it came."""
    return (folder / START).exists() or any(checkpoints(folder)) or "status" in report_of(folder)


def in_use(folder: Path) -> bool:
    """Whether a folder has files of a run or of an evaluation, which another one would mix with its own."""
    return any(checkpoints(folder)) or any((folder / name).exists() for name in ("metrics.csv", "report.json"))


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, those of other callbacks too."""
    return sorted((folder / "checkpoints").glob("*.ckpt"))


def by_start(folder: Path) -> tuple[Any, ...]:
    """A key that sorts runs of one name by their start.

    Runs have numbers, which a clock cannot mix up. Those of versions without came before, as far as their reports and
    names tell: by time, and ``_11`` after ``_9``.

    Example:
        >>> sorted(map(Path, ("2026-01-02_9", "2026-01-02_11", "2026-01-02")), key=by_start)
        [PosixPath('2026-01-02'), PosixPath('2026-01-02_9'), PosixPath('2026-01-02_11')]
    """
    number, name = number_of(folder), [int(part) for part in re.findall(r"\d+", folder.name)]
    began = 0.0
    if number is None:
        with suppress(KeyError, TypeError, ValueError):
            began = datetime.fromisoformat(report_of(folder)["started"]).timestamp()
    return number or 0, began, name, folder.name
