"""A real SIGKILL at a random moment of a real run, and what is left of it; a SIGTERM that saves."""

import os
import random
import signal
import time
from pathlib import Path

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


def fit(folder: str, *more: str) -> int:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    return command(["fit", "-c", "toy.yaml", "--import", "toy_package", "--run_dir", folder, *more])


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


def test_sigterm_saves_and_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "callbacks": None}}  # type: ignore[dict-item]
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(config))
    assert start(fit, "whole", stdout="whole.log").result(120) == 0
    handle = start(fit, "broken", stdout="broken.log")
    while rows(Path("broken")) < 20 and not handle.poll():
        time.sleep(0.001)
    os.kill(handle.pid, signal.SIGTERM)
    assert handle.join(30)
    saved, _ = newest_whole(Path("broken/checkpoints"))
    assert saved is not None, Path("broken.log").read_text()[-2000:]
    assert saved.name < "step=00000150.ckpt", "the run ended before the signal: nothing was tested"
    assert start(fit, "broken", "--ckpt_path", "last", stdout="broken.log").result(120) == 0
    ends = [newest_whole(Path(folder) / "checkpoints")[0] for folder in ("whole", "broken")]
    assert not difference(*[torch.load(path, weights_only=True) for path in ends if path])
    assert Path("whole/metrics.csv").read_text() == Path("broken/metrics.csv").read_text()
