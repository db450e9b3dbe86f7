"""Where the runs of a study go: processes on this machine, or tasks of a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.core.processes import ProcessFailed
from lit_ft.studies.runner import Launch, launch_here, make_run


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


class RayRun:
    """A task of a Ray cluster.

    Args:
        ray: The module.
        reference: What the task will return.
    """

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> bool:
        """Whether it has ended."""
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self, timeout: float | None = None) -> Any:
        """Its result.

        Raises:
            ProcessFailed: The task raised or was lost.
        """
        try:
            return self.ray.get(self.reference, timeout=timeout)
        except self.ray.exceptions.RayError as error:
            raise ProcessFailed(str(error)) from error

    def kill(self, number: int) -> None:
        """Cancel it."""
        self.ray.cancel(self.reference, force=True)


@contextmanager
def _ray() -> Iterator[Launch]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--launcher", "ray", "ray, which is not installed: pip install 'lit-ft[ray]'") from error
    started = not ray.is_initialized()
    if started:  # RAY_ADDRESS names a cluster; without it one is started here
        ray.init(log_to_driver=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    here = os.getcwd()

    @ray.remote(max_retries=0)
    def task(fit: list[str], test: list[str] | None, folder: str) -> None:
        os.chdir(here)
        make_run(fit, test, folder)

    def launch(fit: list[str], test: list[str] | None, folder: Path, threads: int) -> RayRun:
        return RayRun(ray, task.options(num_cpus=threads).remote(fit, test, str(folder)))

    try:
        yield launch
    finally:
        if started:
            ray.shutdown()
