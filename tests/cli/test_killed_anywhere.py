"""A fit and its export, killed by SIGKILL at any moment, end in what comes of them when nobody kills them."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_ft.command.cli import command
from lit_ft.command.run_folders import find_run
from lit_ft.running.files import sha256
from lit_ft.running.processes import start
from lit_ft.running.report import read_report
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import difference

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
STEPS = 40
CONFIG = {
    "model": {
        "class_path": "SupervisedFineTuning",
        "init_args": {
            "network": {"config": {"model_type": "llama", "tokenizer": "bytes", **SIZES}},
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "Cosine"},
        },
    },
    "data": {"class_path": "KnownFacts", "init_args": {"facts": 20}},
    "trainer": {
        "max_steps": STEPS,
        "max_epochs": -1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "accumulate_grad_batches": 2,
        "callbacks": [
            {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 7, "monitor": "val/loss"}},
            {"class_path": "SAM"},
        ],
    },
}
CLOCK = ("number", "started", "command", "wall_seconds", "cpu_seconds", "peak_memory_bytes")
RATES = ("samples_per_second", "tokens_per_second", "git")


def fit_and_export(name: str) -> int:
    """What a person types again after each kill: the same words, with ``last`` once there is a run."""
    begun = Path("runs", name).exists() and any(Path("runs", name).iterdir())
    done = command(["fit", "-c", "c.yaml", "--name", name, *(["--ckpt_path=last"] if begun else [])])
    if done == 0 and not Path(name).exists():
        done = command(["export", str(find_run(Path("runs"), name, finished=True)), "--to", name])
    return done


def outcome(name: str) -> dict[str, Any]:
    (run,) = Path("runs", name).iterdir()
    last, damaged = newest_whole(run / "checkpoints")
    assert last is not None
    assert not damaged
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    card = (Path(name) / "README.md").read_text().splitlines()
    report = {key: value for key, value in read_report(run).items() if key not in (*CLOCK, *RATES, "name")}
    return {
        "last": torch.load(last, weights_only=True),
        "best": {key: best[key] for key in ("state_dict", "global_step")},
        "metrics": (run / "metrics.csv").read_text(),
        "report": report,
        "export": {path.name: sha256(path) for path in Path(name).iterdir() if path.name != "README.md"},
        "card": [line for line in card if not line.startswith(("# ", "Made with"))],  # these name the run
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
    }


def kill_when(name: str, moment: Callable[[], bool], later: float = 0.0) -> bool:
    """Kill the process once the moment has come, or so many seconds later; False if it ended before."""
    handle = start(fit_and_export, name, stdout=f"{name}.log")
    while not handle.poll():
        if moment():
            time.sleep(later)
            handle.kill(signal.SIGKILL)
            handle.join(30)
            return handle.exit_code == -signal.SIGKILL
        time.sleep(0.0005)
    return False


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What comes of it when nobody kills it."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG))
    assert start(fit_and_export, "whole", stdout="whole.log").result(120) == 0
    return outcome("whole")


def assert_ends_like(whole: dict[str, Any], name: str) -> None:
    assert start(fit_and_export, name, stdout=f"{name}.log").result(120) == 0, Path(f"{name}.log").read_text()[-3000:]
    found = outcome(name)
    assert not [place for place in difference(found, whole) if "start_time" not in place]


def there(pattern: str) -> bool:
    return any(Path().glob(pattern))


@pytest.mark.draws
def test_a_kill_at_every_stage(whole: dict[str, Any]) -> None:
    """One run is killed six times: set-up, before a checkpoint, at one, after the last, while drawing, exporting."""
    run, ended = "runs/it/*", f"runs/it/*/checkpoints/step={STEPS:08d}.ckpt"
    moments: dict[str, Callable[[], bool]] = {
        "set-up": lambda: there(run),
        "before the first checkpoint": lambda: there(f"{run}/metrics.csv"),
        "at a checkpoint": lambda: there(f"{run}/checkpoints/step=00000014.ckpt"),
        "after the last": lambda: there(ended),
        "while drawing": lambda: there(ended) and there(f"{run}/plots/*"),
        "exporting": lambda: there(".it.tmp/*"),
    }
    missed = [name for name, moment in moments.items() if not kill_when("it", moment)]
    assert not missed
    assert_ends_like(whole, "it")


def progress(name: str) -> int:
    """How far a run is: its rows, and the files of it and of its export."""
    files = [path for place in (f"runs/{name}", f".{name}.tmp") for path in Path(place).rglob("*")]
    rows = [path.read_text().count("\n") for path in files if path.name == "metrics.csv"]
    return len(files) + sum(rows)


@pytest.mark.slow
@pytest.mark.draws
def test_twenty_kills_at_random(whole: dict[str, Any]) -> None:
    draw, end, found = random.Random(os.environ.get("PYTEST_SEED", "7")), progress("whole"), []
    for number in range(20):
        name, at = f"it{number}", round((number + draw.random()) / 20 * end)
        hit = kill_when(name, lambda name=name, at=at: progress(name) >= at, draw.random() * 0.1)  # type: ignore[misc]
        state = [
            (report.get("status"), report.get("steps")) for report in map(read_report, Path().glob(f"runs/{name}/*"))
        ]
        left = sorted(path.name for path in Path().glob(f"runs/{name}/*/checkpoints/*.ckpt"))
        found.append({"at": f"{at} of {end}", "killed": hit, "runs": state, "checkpoints": left})
        print(json.dumps(found[-1]), flush=True)
        assert_ends_like(whole, name)
    assert sum(one["killed"] for one in found) >= 18, "the last moments may be over when they are seen"
