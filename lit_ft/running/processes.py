"""Run functions in processes of their own, forked from a server that has done the heavy imports.

The server spends seconds on importing lightning; the processes then start in a few hundredths of a second. Used for
runs side by side, for two ranks on one machine, and for killing a run in the middle.
"""

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_loading: list[str] = []  # the file whose top level a child is running to find its function
# what every run imports, also when it saves and draws; a program adds what its functions need, as early as it can
PRELOAD = ["lightning.pytorch.cli", "omegaconf", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"]


class ProcessFailed(RuntimeError):
    """A process ended without a result.

    Args:
        message: Cause of the end, as far as it is known.
        exit_code: Exit code; minus the number of the signal if one killed it; None if it exceeded its time.

    Example:
        >>> raise ProcessFailed("ended with exit code -9 and no result", exit_code=-9)
        Traceback (most recent call last):
            ...
        lit_ft.running.processes.ProcessFailed: ended with exit code -9 and no result
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def warm_up(modules: Sequence[str] = ()) -> None:
    """Start the server with its heavy imports now, in the background.

    Args:
        modules: Further modules that the server imports; ignored if it already runs. A module that is not installed is
            skipped.

    Example:
        >>> warm_up(["torchmetrics"])  # doctest: +SKIP
    """
    _context().set_forkserver_preload([*PRELOAD, *modules])
    _ensure_first()


def _ensure_first() -> None:
    """Start the server in a folder that is not deleted: its imports take seconds and read the working folder."""
    from multiprocessing import forkserver

    here = os.getcwd()
    os.chdir(Path(__file__).parent)
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(here)


def _address(function: Callable[..., Any]) -> tuple[str, str, str]:
    """Module, file and name by which a child finds a function; test modules, not on the import path, need the file."""
    if "." in function.__qualname__:
        raise TypeError(f"{function.__qualname__} is defined inside something; processes need a module-level function")
    return function.__module__, str(Path(inspect.getfile(function)).resolve()), function.__name__


def _find(module: str, file: str, name: str) -> Callable[..., Any]:
    try:
        found = importlib.import_module(module) if module != "__main__" else None
    except ImportError:
        found = None
    if found is None or str(Path(str(found.__file__)).resolve()) != file:
        spec = importlib.util.spec_from_file_location(module if module != "__main__" else "__lit_ft_main__", file)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = found
        _loading.append(file)
        spec.loader.exec_module(found)
        _loading.pop()
    return getattr(found, name)


def _end_with_parent(connection: Connection) -> None:
    """Send SIGTERM to this process when no process is left that would receive its result."""

    def watch() -> None:
        waiting = select.poll()
        waiting.register(connection.fileno(), 0)  # nothing but the loss of the other end
        waiting.poll()
        if not connection.closed:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _child(
    address: tuple[str, str, str],
    arguments: bytes,
    environment: Mapping[str, str],
    folder: str,
    output: str | None,
    connection: Connection,
) -> None:
    os.setsid()  # so that what the function starts itself dies with it
    _end_with_parent(connection)
    os.environ.clear()  # it is that of the first process, and of the time when that began
    os.environ.update(environment)
    os.chdir(folder)
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        result = True, _find(*address)(*pickle.loads(arguments))
        message = pickle.dumps(result)
    except BaseException as error:
        traceback.print_exc()
        message = pickle.dumps((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
    sys.stdout.flush()
    connection.send_bytes(message)
    connection.close()


class Handle:
    """A started process: whether it runs, and its result.

    Args:
        process: The process.
        connection: Connection on which the result arrives.

    See also: :func:`start`, which makes one.

    Example:
        >>> from types import SimpleNamespace
        >>> receiver, sender = multiprocessing.Pipe(duplex=False)
        >>> handle = Handle(SimpleNamespace(exitcode=None, join=lambda: None), receiver)
        >>> handle.poll()
        False
        >>> sender.send_bytes(pickle.dumps((True, 42)))  # a process sends whether its function returned, and the value
        >>> handle.poll(), handle.result()
        (True, 42)
    """

    def __init__(self, process: Any, connection: Connection) -> None:
        self._process, self._connection = process, connection
        self._message: tuple[bool, Any] | None = None

    @property
    def pid(self) -> int:
        """Process id; also that of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the number of the signal if one killed it."""
        return self._process.exitcode

    def poll(self) -> bool:
        """Whether the process has ended; receives the result if there is one."""
        if self._message is None and self._connection.poll():
            try:
                self._message = pickle.loads(self._connection.recv_bytes())
            except EOFError:
                self._process.join()
        return self._message is not None or self._process.exitcode is not None

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds; returns whether the process has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.poll():
            if deadline is not None and time.monotonic() > deadline:
                return False
            self._connection.poll(0.02)
        self._process.join()
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and to its children."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            if self._process.exitcode is None:
                os.kill(self.pid, number)

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned.

        Args:
            timeout: Seconds to wait.

        Raises:
            ProcessFailed: It raised, was killed, or did not end in time.
        """
        if not self.join(timeout):
            self.kill()
            self._process.join()
            raise ProcessFailed(f"no result within {timeout} seconds")
        if self._message is None:
            raise ProcessFailed(f"ended with exit code {self.exit_code} and no result", self.exit_code)
        done, value = self._message
        if not done:
            raise ProcessFailed(value, self.exit_code)
        return value


def start(
    function: Callable[..., Any],
    *arguments: Any,
    env: Mapping[str, str] | None = None,
    stdout: str | Path | None = None,
    threads: int = 1,
) -> Handle:
    """Run a function in a process of its own, in the current folder and environment.

    Args:
        function: Defined at the top level of a module (also of a test file or a script).
        arguments: Arguments; they and the result must pickle.
        env: Further environment variables.
        stdout: File to which the output of the process is appended; None leaves the output of this process.
        threads: Threads that torch may use.

    Returns:
        A handle of the running process, which receives SIGTERM when the handle, or the process that holds it, is gone.

    See also: :func:`run_ranks`.

    Example:
        >>> import statistics
        >>> start(statistics.mean, [1, 2, 3, 6]).result()  # doctest: +SKIP
        3
        >>> start("".join, ["a", "b"])
        Traceback (most recent call last):
            ...
        TypeError: str.join is defined inside something; processes need a module-level function
    """
    if _loading:
        raise RuntimeError(
            f"{_loading[-1]} starts a process when it is imported; put that under if __name__ == '__main__'"
        )
    receiver, sender = _context().Pipe(duplex=False)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **(env or {})}
    output = None if stdout is None else str(stdout)
    address = _address(function)
    process = _context().Process(
        target=_child,
        args=(address, pickle.dumps(arguments), environment, os.getcwd(), output, sender),
        daemon=False,
    )
    main = sys.modules["__main__"]
    kept = main.__dict__.pop("__file__", None), main.__dict__.pop("__spec__", None)
    try:  # multiprocessing would run the main script again in the child
        main.__spec__ = None
        _ensure_first()
        process.start()
    finally:
        if kept[0] is not None:
            main.__file__ = kept[0]
        main.__spec__ = kept[1]
    sender.close()
    return Handle(process, receiver)


@contextmanager
def held_port() -> Iterator[int]:
    """A free port of the loopback address that stays reserved in the context; a store of torch may listen on it.

    Ranks take seconds to import their modules, and longer on a busy machine; a port that is not reserved may be taken
    by then.

    Example:
        >>> with held_port() as port, socket.socket() as other:
        ...     print(other.connect_ex(("127.0.0.1", port)) != 0)  # held, and nobody listens yet
        True
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does: they may share, if one listens
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 300) -> list[Any]:
    """Run ``function(*arguments)`` on every rank of a group of processes, and return the results by rank.

    RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, so that ``torch.distributed`` and
    ``Trainer(strategy="ddp", devices=world_size, accelerator="cpu")`` inside find a group that is already launched.
    Each rank has one thread.

    Args:
        function: Defined at the top level of a module.
        world_size: Number of processes.
        arguments: Arguments, the same for every rank.
        timeout: Seconds for all of them.

    Raises:
        ProcessFailed: A rank failed; the others are killed.

    Example:
        >>> import statistics
        >>> run_ranks(statistics.mean, 2, [1, 2, 3, 6])  # doctest: +SKIP
        [3, 3]
        >>> run_ranks("".join, 2, ["a", "b"])
        Traceback (most recent call last):
            ...
        TypeError: str.join is defined inside something; processes need a module-level function
    """
    handles: list[Handle] = []
    with held_port() as port:
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "NODE_RANK": "0",
            "GROUP_RANK": "0",
        }
        try:
            for rank in range(world_size):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)}
                handles.append(start(function, *arguments, env={**group, **place}))
            _wait(handles, timeout)
            return [handle.result(0) for handle in handles]
        finally:
            for handle in handles:
                if handle.exit_code is None:
                    handle.kill()
                    handle.join()


def _wait(handles: Sequence[Handle], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not all([handle.poll() for handle in handles]):
        for handle in handles:
            failed = handle.poll() and (handle._message is None or not handle._message[0])
            if failed:
                handle.result()
        if time.monotonic() > deadline:
            raise ProcessFailed(f"no result within {timeout} seconds")
        time.sleep(0.02)


def cores_here() -> int:
    """How many cores this process may use.

    Example:
        >>> cores_here() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
