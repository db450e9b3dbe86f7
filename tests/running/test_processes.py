"""Processes that start quickly, fail loudly and leave nothing behind."""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_ft.running.processes import ProcessFailed, run_ranks, start
from lit_ft.testing import ForeignModule, fit_foreign


def double(x: Any) -> Any:
    return 2 * x


def place() -> tuple[int, str, int]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def variable() -> str | None:
    return os.environ.get("LIT_FT_TEST")


def collector() -> tuple[bool, int]:
    return gc.isenabled(), gc.get_freeze_count()


def fail() -> None:
    raise ValueError("on purpose")


def sleep(marker: str) -> None:
    Path(marker).write_text("here")
    time.sleep(60)


def summed() -> float:
    torch.distributed.init_process_group("gloo")
    value = torch.tensor(float(os.environ["RANK"]) + 1)
    torch.distributed.all_reduce(value)
    torch.distributed.destroy_process_group()
    return value.item()


def the_port_is_taken() -> bool:
    with socket.socket() as other:
        try:
            other.bind((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        except OSError:
            return True
    return False


def one_rank_fails() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("rank one")
    time.sleep(60)


def trained() -> tuple[int, int, float]:
    module, trainer = fit_foreign([], module=ForeignModule(norm=False), strategy="ddp", devices=2)
    weights = sum(parameter.double().sum().item() for parameter in module.parameters())
    return trainer.world_size, trainer.global_step, weights


def test_result_and_environment() -> None:
    assert start(double, [1, 2]).result(60) == [1, 2, 1, 2]
    pid, threads, in_torch = start(place, threads=2).result(60)
    assert pid != os.getpid()
    assert threads == "2"
    assert in_torch == 2


def test_the_environment_is_that_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("LIT_FT_TEST", value)
        assert start(variable).result(60) == value
    monkeypatch.delenv("LIT_FT_TEST")
    assert start(variable).result(60) is None


def test_a_second_process_starts_quickly() -> None:
    start(double, 1).result(60)
    begin = time.monotonic()
    start(double, 1).result(60)
    assert time.monotonic() - begin < 3, "importing lightning again would take longer"


def test_what_was_imported_ahead_is_not_looked_through_again() -> None:
    collects, left_alone = start(collector).result(60)
    assert collects
    assert left_alone > 100_000


def test_failure_carries_the_remote_traceback() -> None:
    with pytest.raises(ProcessFailed, match=r"ValueError: on purpose\n(.|\n)*test_processes.py"):
        start(fail).result(60)


def test_kill(tmp_path: Path) -> None:
    handle = start(sleep, str(tmp_path / "marker"))
    while not (tmp_path / "marker").exists():
        time.sleep(0.01)
    handle.kill(signal.SIGKILL)
    assert handle.join(20)
    assert handle.exit_code == -signal.SIGKILL
    with pytest.raises(ProcessFailed, match="exit code -9"):
        handle.result(1)


def test_output_goes_to_a_file(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed):
        start(fail, stdout=tmp_path / "out").result(60)
    assert "on purpose" in (tmp_path / "out").read_text()


def test_ranks_find_each_other() -> None:
    assert run_ranks(summed, 2) == [3.0, 3.0]


def test_nobody_else_is_given_the_port_while_ranks_start() -> None:
    assert run_ranks(the_port_is_taken, 1) == [True]


def test_one_failing_rank_ends_all() -> None:
    begin = time.monotonic()
    with pytest.raises(ProcessFailed, match="rank one"):
        run_ranks(one_rank_fails, 2)
    assert time.monotonic() - begin < 30


def test_a_trainer_under_ddp() -> None:
    first, second = run_ranks(trained, 2)
    assert first == second
    assert first[:2] == (2, 12)


def test_a_script_without_a_guard_does_not_start_itself_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from lit_ft.running.processes import PRELOAD, start\nPRELOAD.clear()\n"  # nothing here needs what runs import
        "def f():\n    return 1\nprint(start(f).result(60))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert "__name__ == '__main__'" in done.stderr


ORPHAN = """
import os, time
from lit_ft.running.processes import PRELOAD, start
PRELOAD.clear()
def f(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(100)
if __name__ == "__main__":
    handle = start(f, {path!r})
    time.sleep(100)
"""


def test_what_was_started_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script, marker = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(ORPHAN.format(path=str(marker)))
    parent = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 100
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(marker.read_text())
    assert runs(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not runs(child)


def runs(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and "Z" not in state


def test_a_nested_function_is_refused() -> None:
    with pytest.raises(TypeError, match="module-level"):
        start(lambda: None)


def test_later_processes_find_what_was_imported_ahead(tmp_path: Path) -> None:
    """Named modules are imported once, before the first process; one that is not installed does no harm."""
    script = tmp_path / "ahead.py"
    script.write_text(
        """
import sys
from lit_ft.running.processes import PRELOAD, start, warm_up

PRELOAD[:] = ["matplotlib.backends.backend_svg"]

def there():
    return "colorsys" in sys.modules, "matplotlib.backends.backend_svg" in sys.modules, "wave" in sys.modules

if __name__ == "__main__":
    warm_up(["colorsys", "not_installed_anywhere"])
    print(start(there).result(60))
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(True, True, False)", done.stderr


BELOW = """
import os
from lit_ft.running.processes import start, warm_up
def where():
    return os.getcwd()
if __name__ == "__main__":
    os.mkdir("below")
    os.chdir("below")
    warm_up()
    os.chdir("..")
    os.rmdir("below")
    print(start(where).result(100) == os.getcwd())
"""


def test_the_folder_of_the_first_process_may_go(tmp_path: Path) -> None:
    script = tmp_path / "below.py"
    script.write_text(BELOW)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr
