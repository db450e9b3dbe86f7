"""A real SIGKILL at a random moment of a real run, and what is left of it; signals that save, or just end."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_ft.command.cli import command
from lit_ft.running.processes import start
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import difference

CONFIG = {
    "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}, "schedule": {"class_path": "Cosine"}}},
    "data": {"class_path": "ToyData"},
    "trainer": {
        "max_steps": 150,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "accumulate_grad_batches": 2,
        "callbacks": [{"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 3}}],
    },
}


def lit_ft(*arguments: str) -> int:
    import sys

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it runs in the background
    sys.path.insert(0, str(Path(__file__).parent))
    return command([*arguments, "-c", "toy.yaml", "--import", "toy_package"])


def fit(folder: str, *more: str) -> int:
    return lit_ft("fit", "--run_dir", folder, *more)


def rows(folder: Path) -> int:
    file = folder / "metrics.csv"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(CONFIG))
    assert start(fit, "whole", stdout="whole.log").result(120) == 0
    draw = random.Random(os.environ.get("PYTEST_SEED", "5"))
    broken, kills = Path("broken"), 0
    for until in sorted(draw.sample(range(20, 150), 3)):
        resume = ("--ckpt_path", "last") if newest_whole(broken / "checkpoints")[0] else ()
        handle = start(fit, "broken", *resume, stdout="broken.log")
        while rows(broken) < until and not handle.poll():
            time.sleep(draw.random() * 0.003)
        handle.kill(signal.SIGKILL)
        handle.join(30)
        kills += handle.exit_code == -signal.SIGKILL
    assert kills >= 2, "the run ended before it could be killed: nothing was tested"
    assert start(fit, "broken", "--ckpt_path", "last", stdout="broken.log").result(120) == 0
    ends = [newest_whole(Path(folder) / "checkpoints")[0] for folder in ("whole", "broken")]
    loaded = [torch.load(path, weights_only=True) for path in ends if path]
    assert not difference(*loaded)
    assert Path("whole/metrics.csv").read_text() == Path("broken/metrics.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(number: signal.Signals, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "callbacks": None}}  # type: ignore[dict-item]
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(config))
    assert start(fit, "whole", stdout="whole.log").result(120) == 0
    handle = start(fit, "broken", stdout="broken.log")
    while rows(Path("broken")) < 20 and not handle.poll():
        time.sleep(0.001)
    os.kill(handle.pid, number)
    assert handle.result(30) == 128 + number
    saved, _ = newest_whole(Path("broken/checkpoints"))
    log = Path("broken.log").read_text()
    assert saved is not None, log[-2000:]
    assert saved.name < "step=00000150.ckpt", "the run ended before the signal: nothing was tested"
    assert f"{number.name}: saved: {saved}" in log
    assert json.loads(Path("broken/report.json").read_text())["status"] == "interrupted"
    assert start(fit, "broken", "--ckpt_path", "last", stdout="broken.log").result(120) == 0
    ends = [newest_whole(Path(folder) / "checkpoints")[0] for folder in ("whole", "broken")]
    assert not difference(*[torch.load(path, weights_only=True) for path in ends if path])
    assert Path("whole/metrics.csv").read_text() == Path("broken/metrics.csv").read_text()


def waiting(hook: str, **when: int) -> dict[str, Any]:
    waits = {"class_path": "Waits", "init_args": {"at": hook, **when}}
    trainer: Any = CONFIG["trainer"]
    return {**CONFIG, "trainer": {**trainer, "callbacks": [*trainer["callbacks"], waits]}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("stage", "hook"), [("fit", "setup"), ("fit", "on_validation_batch_start"), ("test", "on_test_batch_start")]
)
def test_a_signal_ends_at_once_what_has_nothing_to_save(
    stage: str, hook: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before training, in the sanity check and in an evaluation; a folder of which nothing came is removed."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(yaml.safe_dump(waiting(hook)))
    handle = start(lit_ft, stage, "--name=it", stdout="log")
    deadline = time.monotonic() + 60
    while not Path("waits").exists() and time.monotonic() < deadline and not handle.poll():
        time.sleep(0.01)
    os.kill(handle.pid, number)
    assert handle.result(30) == 128 + number, Path("log").read_text()[-2000:]
    assert not Path("runs").exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window does not end for a minute; what was saved before is what there is."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(yaml.safe_dump(waiting("on_before_optimizer_step", step=4)))
    handle = start(fit, "it", stdout="log")
    for marker in ("waits", "log"):
        while "Ctrl-C again" not in Path("log").read_text() if marker == "log" else not Path(marker).exists():
            assert not handle.poll(), Path("log").read_text()[-2000:]
            time.sleep(0.01)
        os.kill(handle.pid, signal.SIGINT)
    assert handle.result(20) == 130
    saved, _ = newest_whole(Path("it/checkpoints"))
    assert saved is not None
    report = json.loads(Path("it/report.json").read_text())
    assert (report["status"], saved.name) == ("interrupted", "step=00000003.ckpt")
