"""Where the runs of a study go: processes on this machine, or tasks of a Ray cluster."""

import io
import os
import signal
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError
from lit_ft.running.processes import ProcessFailed
from lit_ft.studies.runner import Job, Launch, is_complete, launch_here


@contextmanager
def launcher(name: str) -> Iterator[Launch]:
    """How a run is started: ``local`` or ``ray``."""
    if name == "local":
        yield launch_here
    elif name == "ray":
        with _ray() as launch:
            yield launch
    else:
        raise ConfigError("--launcher", name, "local, ray")


def make_away(job: Job, threads: int, home: str, files: Mapping[str, str]) -> bytes:
    """Make a run on another machine, and send back what it wrote, checkpoints left out.

    Args:
        job: The run; its paths are relative to ``home``.
        threads: Threads that it may use.
        home: Working folder of the study; where it is not shared, a temporary one takes its place.
        files: Text of the config files by path, for a machine that does not have them.
    """
    os.chdir(home if Path(home).is_dir() else tempfile.mkdtemp())
    for path, text in files.items():
        if not Path(path).exists():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
    handle = launch_here(job, threads)
    try:
        handle.result()
    finally:
        if not handle.poll():
            handle.kill(signal.SIGTERM)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file in sorted(Path(job.folder).rglob("*")):
            if file.is_file() and file.suffix != ".ckpt":
                archive.add(file, str(file.relative_to(job.folder)))
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Put the files of a run that was made elsewhere into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


class RayRun:
    """A task of a Ray cluster.

    Args:
        ray: The module.
        reference: What the task will return.
        folder: Where the files of the run belong.
    """

    def __init__(self, ray: Any, reference: Any, folder: Path) -> None:
        self.ray, self.reference, self.folder = ray, reference, folder

    def poll(self) -> bool:
        """Whether it has ended."""
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self, timeout: float | None = None) -> None:
        """Take its files.

        Raises:
            ProcessFailed: The task raised or was lost.
        """
        try:
            packed = self.ray.get(self.reference, timeout=timeout)
        except self.ray.exceptions.RayError as error:
            raise ProcessFailed(str(getattr(error, "cause", error))) from error  # as the process there said it
        if not is_complete(self.folder):
            unpack(packed, self.folder)

    def kill(self, number: int) -> None:
        """Cancel it; its process is asked to save and end."""
        self.ray.cancel(self.reference, force=number == signal.SIGKILL)


@contextmanager
def _ray() -> Iterator[Launch]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--launcher", "ray", "ray, which is not installed: pip install 'lit-ft[ray]'") from error
    started = not ray.is_initialized()
    if started:  # RAY_ADDRESS names a cluster; without it one is started here
        ray.init(log_to_driver=False)
    home = os.getcwd()
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    task = ray.remote(max_retries=0)(make_away)

    def launch(job: Job, threads: int) -> RayRun:
        threads = min(threads, max(1, largest))  # what no machine has would be waited for without end
        files = {config.path: config.text for config in Request.of(job.fit).configs}
        return RayRun(ray, task.options(num_cpus=threads).remote(job, threads, home, files), Path(job.folder))

    try:
        yield launch
    finally:
        if started:
            ray.shutdown()
