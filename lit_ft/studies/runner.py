"""Making the runs of a study: side by side, each in a process of its own, none able to take the others down."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lit_ft.core.files import write_text
from lit_ft.core.processes import ProcessFailed, start
from lit_ft.core.report import read_report
from lit_ft.studies.plan import Planned

WAITING, RUNNING, DONE, REUSED, FAILED = "waiting", "running", "done", "reused", "failed"


class Running(Protocol):
    """A run under way, here or on a cluster."""

    def poll(self) -> bool:
        """Whether it has ended."""

    def result(self, timeout: float | None = None) -> Any:
        """Its result, or an error."""

    def kill(self, number: int) -> None:
        """Ask it to end."""


Launch = Callable[[list[str], list[str] | None, Path, int], Running]


@dataclass
class Status:
    """Where a run stands.

    Args:
        planned: The run.
        state: waiting, running, done, reused or failed.
        seconds: Time it took, or has taken so far.
        problem: The last lines of a failed run.
    """

    planned: Planned
    state: str = WAITING
    seconds: float = 0.0
    problem: str = ""


def make_run(fit: list[str], test: list[str] | None, folder: str) -> None:
    """What a child process does: the code path of ``lit-ft fit`` and ``lit-ft test``."""
    from lit_ft.cli import quiet
    from lit_ft.run import execute

    quiet()
    if read_report(Path(folder)).get("status") != "finished":
        execute("fit", fit)
    if test is not None:
        execute("test", test)
    write_text(Path(folder) / "complete", "")


def launch_here(fit: list[str], test: list[str] | None, folder: Path, threads: int) -> Running:
    """A process on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    return start(make_run, fit, test, str(folder), stdout=folder / "output.log", threads=threads)


def commands(planned: Planned, test: bool) -> tuple[list[str], list[str] | None]:
    """Arguments of fit (going on from a checkpoint when there is one) and of test."""
    place = [f"--run_dir={planned.folder}", f"--run={planned.folder}", f"--name={planned.arm}"]
    interrupted = any((planned.folder / "checkpoints").glob("step=*.ckpt"))
    resume = ["--ckpt_path=last"] if interrupted else []
    begin = [f"--from={planned.after}"] if planned.after is not None and not interrupted else []
    return [*planned.args, *place, *resume, *begin], [
        *planned.args,
        *place,
        "--ckpt_path=last",
    ] if test and planned.final else None


def make_runs(
    planned: Sequence[Planned],
    jobs: int,
    test: bool = True,
    launch: Launch = launch_here,
    show: Callable[[list[Status]], Any] | None = None,
    after_each: Callable[[Planned], None] | None = None,
) -> list[Status]:
    """Make all runs that are not there yet.

    Finished runs are reused, interrupted ones go on from their checkpoint, a failed one does not stop the others.
    Ctrl-C asks the running ones to save and end; the study can be started again.

    Args:
        planned: The runs; one with ``after`` waits for the run of that folder.
        jobs: How many at once; the threads of the machine are shared among them.
        test: Whether each is tested after its fit.
        launch: How a run is started.
        show: Called with all statuses whenever something may have changed.
        after_each: Called after each run that was made; an error that it raises stops the study.

    Returns:
        How each run ended.
    """
    statuses = [Status(run, REUSED if (run.folder / "complete").exists() else WAITING) for run in planned]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    active: list[tuple[Status, Running, float]] = []
    with _table(show) as update:
        try:
            while any(status.state in (WAITING, RUNNING) for status in statuses):
                _begin(statuses, active, jobs, threads, test, launch)
                for item in list(active):
                    status, running, begun = item
                    status.seconds = time.monotonic() - begun
                    if running.poll():
                        active.remove(item)
                        _finish(status, running)
                        if status.state == DONE and after_each is not None:
                            after_each(status.planned)
                update(statuses)
                time.sleep(0.02)
        except BaseException:
            _stop(active)
            raise
    return statuses


def _begin(
    statuses: list[Status],
    active: list[tuple[Status, Running, float]],
    jobs: int,
    threads: int,
    test: bool,
    launch: Launch,
) -> None:
    ended = {status.planned.folder: status.state for status in statuses}
    for status in statuses:
        if status.state != WAITING or len(active) >= jobs:
            continue
        before = ended.get(status.planned.after) if status.planned.after is not None else DONE
        if before == FAILED:
            status.state, status.problem = FAILED, "the stage before it failed"
        elif before in (DONE, REUSED):
            fit, tested = commands(status.planned, test)
            active.append((status, launch(fit, tested, status.planned.folder, threads), time.monotonic()))
            status.state = RUNNING


def _finish(status: Status, running: Running) -> None:
    try:
        running.result(10)
        status.state = DONE
    except ProcessFailed as error:
        status.state, status.problem = FAILED, "\n".join(str(error).strip().splitlines()[-6:])


def _stop(active: list[tuple[Status, Running, float]]) -> None:
    """SIGTERM lets a run save; what does not end by itself is killed."""
    for _, running, _ in active:
        running.kill(signal.SIGTERM)
    deadline = time.monotonic() + 20
    for _, running, _ in active:
        while not running.poll() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not running.poll():
            running.kill(signal.SIGKILL)


def _table(show: Callable[[list[Status]], Any] | None) -> Any:
    """A live table on a terminal, one line a finished run elsewhere."""
    if show is None:
        return nullcontext(lambda statuses: None)
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if console.is_terminal:
        return _LiveTable(Live(console=console, refresh_per_second=4, transient=True), show)
    return nullcontext(_Lines())


class _LiveTable:
    def __init__(self, live: Any, show: Callable[[list[Status]], Any]) -> None:
        self.live, self.show, self.drawn = live, show, 0.0

    def __enter__(self) -> Callable[[list[Status]], None]:
        self.live.__enter__()
        return self._update

    def _update(self, statuses: list[Status]) -> None:
        if time.monotonic() - self.drawn > 0.25:  # drawing is not free beside short runs
            self.drawn = time.monotonic()
            self.live.update(self.show(statuses))

    def __exit__(self, *problem: Any) -> None:
        self.live.__exit__(*problem)


class _Lines:
    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, statuses: list[Status]) -> None:
        for status in statuses:
            if status.state in (DONE, REUSED, FAILED) and status.planned.label not in self.said:
                self.said.add(status.planned.label)
                done = f"[{len(self.said)}/{len(statuses)}] {status.planned.label}: {status.state}"
                print(f"{done}, {status.seconds:.1f} s", flush=True)
                if status.problem:
                    print(status.problem, flush=True)
