"""The report of a run."""

import platform
import resource
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.nn.parameter import is_lazy

from lit_ft.core.adapters import adapter_matches
from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import Diverged
from lit_ft.core.forms import named, rows_in
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.method import Method
from lit_ft.running.figures import curves, save_figures
from lit_ft.running.files import write_text
from lit_ft.running.metrics_file import read_history
from lit_ft.running.not_finite import NotFinite
from lit_ft.running.page import page
from lit_ft.running.report import ENDED, final_values, git_state, read_report, versions, write_report
from lit_ft.running.resume_point import end_again
from lit_ft.running.run_folder import number_of
from lit_ft.running.stop_signals import Interrupted


class RunReport(FitCallback):
    """Writes ``config.yaml``, ``report.json``, ``report.html`` and ``plots/*.svg|png`` into the run folder.

    The report holds command, versions, git state, seed, steps, wall and CPU time, peak memory, samples and tokens per
    second, the last value of every logged key, and the reports of the callbacks: a callback may define
    ``report() -> dict`` and ``plots(history) -> {name: matplotlib figure}``. A later ``test`` adds to the same report.

    Nothing is written before the first step (or the first batch of an evaluation).

    Args:
        folder: The run folder.
        name: Name of the run, shown as the title.
        config: Text of the resolved configuration.
        command: The command line that started the run.
        seed: The seed of the run.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _ = fit_foreign([RunReport("run", name="three steps")], max_steps=3)
        >>> report = read_report(Path("run"))
        >>> report["status"], report["steps"], report["trainable_parameters"]
        ('finished', 3, 147)
    """

    def __init__(
        self, folder: str, name: str = "run", config: str = "", command: str = "", seed: int | None = None
    ) -> None:
        super().__init__()
        self.folder, self.name, self.config, self.command, self.seed = Path(folder), name, config, command, seed
        self._wall: float | None = None  # what the clocks showed at the start; None before it and after the end
        self._cpu = 0.0
        self._samples: int | None = 0
        self._tokens: Any = 0
        self._before: dict[str, Any] = {}
        self._git: dict[str, Any] | None = None
        self._started = ""
        self._ended = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the clock and the counters."""
        super().setup(trainer, pl_module, stage)
        self._wall, self._samples, self._tokens, self._ended = None, 0, 0, False

    def _begin(self, trainer: pl.Trainer) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        if not trainer.is_global_zero:
            return
        anew = trainer.state.fn == "fit" and from_its_start(trainer)
        self._before, self._git = {} if anew else read_report(self.folder), git_state()
        self._started = self._before.get("started") or datetime.now().astimezone().isoformat(timespec="seconds")
        if trainer.state.fn == "fit":
            self._write_config()
            self._save(trainer, "running")

    def _write_config(self) -> None:
        if not (self.folder / "config.yaml").exists() and self.config:
            write_text(self.folder / "config.yaml", self.config)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self._begin(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples and tokens."""
        ids, mask = named(batch, "input_ids"), named(batch, "attention_mask")
        rows = rows_in(batch)
        if isinstance(ids, torch.Tensor):
            marked = isinstance(mask, torch.Tensor) and mask.ndim == 2
            self._tokens = self._tokens + (mask.sum() if marked else ids.numel())
            rows = ids.shape[0] if ids.ndim else rows
        self._samples = None if rows is None or self._samples is None else self._samples + rows

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note steps and times so far: what a run that is killed leaves of them."""
        if trainer.is_global_zero and self._wall is not None and trainer.state.fn == "fit":
            self._save(trainer, "running")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the report of a finished fit."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        diverged = any(isinstance(callback, NotFinite) and callback.diverged for callback in callbacks)
        if trainer.is_global_zero:
            self._save(trainer, "diverged" if diverged else "finished")
        self._wall = None
        self._ended = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the report of a run that was killed after its last step."""
        if not self._ended and trainer.ckpt_path is not None:
            before = read_report(self.folder)
            if before.get("status") not in ENDED or before.get("steps") != trainer.global_step:
                end_again(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the report of an unfinished fit; who cannot wait gets no drawings."""
        if trainer.is_global_zero and self._wall is not None and trainer.state.fn == "fit":
            stopped = isinstance(exception, (KeyboardInterrupt, SystemExit))
            at_once = isinstance(exception, KeyboardInterrupt) and not isinstance(exception, Interrupted)
            status = "interrupted" if stopped else "diverged" if isinstance(exception, Diverged) else "failed"
            try:
                self._save(trainer, status, draw=not at_once)
            except OSError as error:  # a full disk: what ended the run is what is to be read
                rank_zero_warn(f"no report of how the run ended could be written: {error}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self._begin(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the test's values to the report."""
        self._add_evaluation(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks when validation is the whole run."""
        if trainer.state.fn == "validate":
            self._begin(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the values of a validation that is the whole run."""
        if trainer.state.fn == "validate":
            self._add_evaluation(trainer)

    def _callbacks(self, trainer: pl.Trainer, running: bool = False) -> dict[str, Any]:
        """The reports of the callbacks; of a run that may yet be killed, what no state could tell again."""
        summaries: dict[str, Any] = {}
        seen: Counter[str] = Counter()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callable(getattr(callback, "report", None)):
                name = type(callback).__name__
                seen[name] += 1
                if not running or (isinstance(callback, FitCallback) and not callback.has_state):
                    summaries[name if seen[name] == 1 else f"{name} {seen[name]}"] = callback.report()
        return summaries

    def _told(self, trainer: pl.Trainer, running: bool) -> dict[str, Any]:
        """The reports; a callback that has nothing to say now does not unsay what it said before."""
        earlier = self._before.get("callbacks", {})
        return {name: part or earlier.get(name, part) for name, part in self._callbacks(trainer, running).items()}

    def _save(self, trainer: pl.Trainer, status: str, draw: bool = True) -> None:
        assert self._wall is not None
        running, before = status == "running", self._before
        wall = before.get("wall_seconds", 0.0) + time.perf_counter() - self._wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        parameters = list(trainer.lightning_module.parameters())

        def rate(key: str, count: float | None) -> float | None:
            earlier = before.get(key, 0.0)
            if count is None or earlier is None:
                return None
            return (earlier * before.get("wall_seconds", 0.0) + count) / wall

        report = {
            "name": self.name,
            "status": status,
            "number": number_of(self.folder),
            "command": self.command,
            "started": self._started,
            "seed": self.seed,
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "wall_seconds": wall,
            "cpu_seconds": before.get("cpu_seconds", 0.0) + time.process_time() - self._cpu,
            "peak_memory_bytes": max(before.get("peak_memory_bytes", 0), peak),
            "samples_per_second": rate("samples_per_second", self._samples),
            "tokens_per_second": rate("tokens_per_second", float(self._tokens)),
            "parameters": _size(parameters),
            "trainable_parameters": _size([p for p in parameters if p.requires_grad]),
            "adapter": adapter_matches(trainer.lightning_module),
            "metrics": {} if running else final_values(read_history(self.folder / "metrics.csv")),
            "callbacks": {**before.get("callbacks", {}), **self._told(trainer, running)},
            "versions": versions(),
            "machine": machine(trainer),
            "git": self._git,
        }
        if not report["adapter"]:
            del report["adapter"]
        if running or not draw:
            write_report(self.folder, report)
        else:
            self._publish(trainer, report)

    def _add_evaluation(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        report = self._before or {"name": self.name, "command": self.command, "versions": versions()}
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        report["metrics"] = {**report.get("metrics", {}), **values}
        report["callbacks"] = {
            **report.get("callbacks", {}),
            **{k: v for k, v in self._callbacks(trainer).items() if v},
        }
        report["validate_command" if trainer.state.fn == "validate" else "test_command"] = self.command
        self._publish(trainer, report)

    def _publish(self, trainer: pl.Trainer, report: dict[str, Any]) -> None:
        """Write everything; an evaluation keeps the curves of the fit, and draws from the callbacks' states alone."""
        plots, history = self.folder / "plots", read_history(self.folder / "metrics.csv")
        files = {name: file for name, file in report.get("figures", {}).items() if (plots / f"{file}.svg").exists()}
        if trainer.state.fn != "fit" and files:
            history = {}
        figures = curves(history)
        for source in (*trainer.callbacks, trainer.lightning_module):  # type: ignore[attr-defined]
            if isinstance(source, (Callback, Method)) and callable(getattr(source, "plots", None)):
                figures |= source.plots(history)  # type: ignore[operator, union-attr]
        report["figures"] = {**files, **save_figures(figures, plots)}
        drawings = {n: (plots / f"{file}.svg").read_text(encoding="utf-8") for n, file in report["figures"].items()}
        self._write_config()
        config = self.folder / "config.yaml"
        text = config.read_text(encoding="utf-8") if config.exists() else self.config
        write_text(self.folder / "report.html", page(report, drawings, text))
        write_report(self.folder, report)  # the last of all: what it says is there


def _size(parameters: list[torch.nn.Parameter]) -> int | None:
    """Number of their entries; unknown while a lazy layer has not seen a batch."""
    return None if any(map(is_lazy, parameters)) else sum(p.numel() for p in parameters)


def machine(trainer: pl.Trainer) -> dict[str, Any]:
    """System, accelerator, devices, ranks, precision and threads of a run.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1)
        >>> found = machine(trainer)
        >>> found["accelerator"], found["ranks"], found["precision"]
        ('CPUAccelerator', 1, '32-true')
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": type(trainer.accelerator).__name__,
        "devices": trainer.num_devices,
        "ranks": trainer.world_size,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
    }
