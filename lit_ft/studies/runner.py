"""Making the runs of a study: side by side, each in a process of its own, none able to take the others down."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lit_ft.core.errors import Diverged
from lit_ft.running.files import write_text
from lit_ft.running.processes import ProcessFailed, cores_here, start
from lit_ft.studies.code import class_paths
from lit_ft.studies.plan import Planned

WAITING, RUNNING, DONE, REUSED, FAILED = "waiting", "running", "done", "reused", "failed"
GRACE = 20.0  # seconds in which an interrupted run may save


@dataclass(frozen=True)
class Job:
    """What a process is told.

    Args:
        fit: Arguments of ``lit-ft fit``.
        test: Arguments of ``lit-ft test``; None when there is no test.
        folder: The run folder.
        modules: Modules whose classes the configuration names; a user's own are not known otherwise.
    """

    fit: list[str]
    test: list[str] | None
    folder: str
    modules: tuple[str, ...]


class Running(Protocol):
    """A run under way, here or on a cluster."""

    def poll(self) -> bool:
        """Whether it has ended."""

    def result(self, timeout: float | None = None) -> Any:
        """Its result, or an error."""

    def kill(self, number: int) -> None:
        """Ask it to end."""


Launch = Callable[[Job, int], Running]


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


class WrongInput(Exception):
    """What the user can mend in the configuration of a run, in one line."""


def make_run(job: Job) -> None:
    """What a process does: the code path of ``lit-ft fit`` and ``lit-ft test``."""
    from lit_ft.command.complaint import complaint
    from lit_ft.command.preload import quiet
    from lit_ft.command.request import Request
    from lit_ft.command.run import execute
    from lit_ft.running.report import ENDED

    quiet()
    folder = Path(job.folder)
    for module in job.modules:
        import_module(module)
    request = None
    try:
        request = Request.of(job.fit, "fit")
        if status_of(folder) not in ENDED:
            with suppress(Diverged):  # such a run has come to its end, and has no numbers
                execute("fit", request)
        if status_of(folder) not in ENDED:
            raise RuntimeError(f"{folder}: the fit came to no end; its report says {status_of(folder)}")
        if job.test is not None and status_of(folder) == "finished":
            execute("test", job.test)
    except Exception as error:
        if (message := complaint(error, request)) is None:
            raise
        raise WrongInput(message) from error
    write_text(folder / "complete", "")


def launch_here(job: Job, threads: int) -> Running:
    """A process on this machine."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return start(make_run, job, stdout=folder / "output.log", threads=threads)


def is_complete(folder: Path) -> bool:
    """Whether the run of a folder came to its end and was tested; earlier versions took some for it that did not."""
    from lit_ft.running.report import ENDED

    return (folder / "complete").exists() and status_of(folder) in ENDED


def status_of(folder: Path) -> str | None:
    """What the report of a run says of its end; None without a report."""
    from lit_ft.running.report import read_report

    return read_report(folder).get("status")


def job_of(planned: Planned, test: bool) -> Job:
    """The commands of a run; fit goes on with what there is of it."""
    from lit_ft.running.run_folder import checkpoints, is_begun

    place = [f"--run_dir={planned.folder}", f"--name={planned.arm}"]
    resume = ["--ckpt_path=last"] if is_begun(planned.folder) else []
    begin = [f"--from={planned.after}"] if planned.after is not None and not checkpoints(planned.folder) else []
    return Job(
        fit=[*planned.args, *place, *resume, *begin],
        test=[*planned.args, *place, "--ckpt_path=last"] if test else None,
        folder=str(planned.folder),
        modules=tuple(sorted({path.rpartition(".")[0] for path in class_paths(planned.config)} - {""})),
    )


def threads_of(jobs: int) -> int:
    """Threads of a run beside ``jobs - 1`` others: a share of the cores of this process, at most OMP_NUM_THREADS.

    More threads than cores wait in loops for one another, and cost several times the work.
    """
    cores = cores_here()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // jobs, int(wanted) if wanted.isdigit() else cores))


def make_runs(
    planned: Sequence[Planned],
    jobs: int,
    test: bool = True,
    launch: Launch = launch_here,
    show: Callable[[Sequence[Status]], None] | None = None,
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
        show: Called with all statuses again and again.
        after_each: Called after each run that was made; an error that it raises stops the study.

    Returns:
        How each run ended.
    """
    statuses = [Status(run, REUSED if is_complete(run.folder) else WAITING) for run in planned]
    threads = threads_of(jobs)
    active: list[tuple[Status, Running, float]] = []
    try:
        while any(status.state in (WAITING, RUNNING) for status in statuses):
            for status in statuses:
                if len(active) < jobs and _may_begin(status, statuses):
                    active.append((status, launch(job_of(status.planned, test), threads), time.monotonic()))
                    status.state = RUNNING
            for item in list(active):
                status, running, begun = item
                status.seconds = time.monotonic() - begun
                if running.poll():
                    active.remove(item)
                    _finish(status, running)
                    if status.state == DONE and after_each is not None:
                        after_each(status.planned)
            if show is not None:
                show(statuses)
            time.sleep(0.02)
        if show is not None:
            show(statuses)
    except BaseException:
        _stop(active)
        raise
    return statuses


def _may_begin(status: Status, statuses: Sequence[Status]) -> bool:
    """Whether a run waits for nothing; it fails with the stage before it."""
    if status.state != WAITING or status.planned.after is None:
        return status.state == WAITING
    before = next(other for other in statuses if other.planned.folder == status.planned.after)
    if before.state == FAILED:
        status.state, status.problem = FAILED, "the stage before it failed"
    return before.state in (DONE, REUSED)


def _finish(status: Status, running: Running) -> None:
    try:
        running.result(10)
        status.state = DONE
    except ProcessFailed as error:
        lines = str(error).strip().splitlines()
        told = lines[0].removeprefix(f"{WrongInput.__name__}: ")
        status.state, status.problem = FAILED, "\n".join(lines[-6:]) if told == lines[0] else told


def _stop(active: Sequence[tuple[Status, Running, float]]) -> None:
    """SIGTERM lets a run save; what does not end by itself is killed."""
    for _, running, _ in active:
        running.kill(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for _, running, _ in active:
        while not running.poll() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not running.poll():
            running.kill(signal.SIGKILL)
