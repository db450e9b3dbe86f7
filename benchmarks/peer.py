"""What the benchmarks share: options, environments with the peers, equal training, arms in processes, a meter."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "build" / "peers"


def arguments(doc: str | None, steps: int, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark: steps, rounds, threads, and the file for the numbers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    return parser


def model_arguments(doc: str | None, steps: int, rounds: int, model: str, data: str) -> argparse.ArgumentParser:
    """Those of a benchmark that can be pointed at another model and other data, and what these may be."""
    parser = arguments(doc, steps, rounds)
    parser.add_argument("--model", default="", help=f"{model}; a tiny one is made where none is given")
    parser.add_argument("--data", default="", help=f"{data}; made where none is given")
    return parser


def peer_arguments(doc: str | None, steps: int, rounds: int, model: str, data: str) -> argparse.ArgumentParser:
    """Those of a benchmark whose arms are processes, some of them in the environment of a peer."""
    parser = model_arguments(doc, steps, rounds, model, data)
    parser.add_argument("--peer", default="", help="Python of the environment with the peer")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    return parser


def our_trainer(steps: int, clip: float, after_batch: Callable[[Any], None], **settings: Any) -> Any:
    """Lightning's trainer for so many steps, without files; ``after_batch`` gets each batch when its step is done."""
    import lightning.pytorch as pl

    class Counter(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
            after_batch(batch)

    callbacks = [*settings.pop("callbacks", ()), Counter()]
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"accelerator": "cpu", "logger": False, **quiet, **settings}
    return pl.Trainer(max_steps=steps, max_epochs=-1, gradient_clip_val=clip, callbacks=callbacks, **settings)


def their_settings(steps: int, batch: int, rate: float, clip: float) -> dict[str, Any]:
    """The same for the arguments of a Hugging Face trainer."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": rate,
        "weight_decay": 0.0,
        "max_grad_norm": clip,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def peer_python(name: str, requirements: Sequence[str]) -> str:
    """The Python of an environment that has some packages, beside the torch of this one.

    Args:
        name: Of the environment.
        requirements: What is installed in it, as for pip.
    """
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        print(f"making an environment for {name} ...", file=sys.stderr)
        import torch

        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / name)], check=True)
        for wanted in ([f"torch=={torch.__version__.split('+')[0]}"], requirements):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return str(python)


class Meter:
    """CPU seconds and tokens between the second and the last step: the first one pays for warming up."""

    def __init__(self) -> None:
        self.tokens, self.seconds, self.wall = 0, 0.0, 0.0
        self.begun = time.process_time()
        self.base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.started: tuple[float, float] | None = None

    def step(self, tokens: int) -> None:
        """A step with so many tokens has ended."""
        now = (time.process_time(), time.perf_counter())
        if self.started is None:
            self.started = now
            return
        self.tokens += tokens
        self.seconds, self.wall = now[0] - self.started[0], now[1] - self.started[1]

    def result(self) -> dict[str, float]:
        """Speed over the steps, CPU seconds since the meter was made, and the peak of memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "tokens": self.tokens,
            "cpu_seconds": self.seconds,
            "wall_seconds": self.wall,
            "tokens_per_cpu_second": self.tokens / self.seconds,
            "fit_cpu_seconds": time.process_time() - self.begun,
            "peak_mib": peak,
            "above_start_mib": peak - self.base,
        }


def in_process(script: str, python: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """What an arm of a benchmark writes as JSON when it runs in a process of its own.

    Args:
        script: The benchmark itself; it runs one arm where it is given ``--arm``.
        python: Of which environment.
        settings: Its options; ``arm`` is among them.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        options = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        done = subprocess.run([python, script, *options, "--json", file.name], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{settings['arm']} failed:\n{done.stderr[-3000:]}")
        return json.loads(Path(file.name).read_text())


def in_turn(
    arms: Sequence[str], rounds: int, run: Callable[[str], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """Every arm once, and again, so that what slows the machine down meets all of them."""
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm, runs in results.items():
            runs.append(run(arm))
            print(f"{arm}: {runs[-1]}", file=sys.stderr, flush=True)
    return results


def check_losses(results: Mapping[str, Sequence[Mapping[str, float]]], key: str = "loss") -> None:
    """All arms must have learned the same, within 3 %, before anybody speaks of speed."""
    found = {arm: runs[0][key] for arm, runs in results.items()}
    if found and max(found.values()) > 1.03 * min(found.values()):
        raise SystemExit(f"the losses differ, so speeds are not compared: {found}")


def medians(results: Mapping[str, Sequence[Mapping[str, float]]], key: str) -> dict[str, float]:
    """The middle round of each arm."""
    return {arm: sorted(run[key] for run in runs)[len(runs) // 2] for arm, runs in results.items()}
