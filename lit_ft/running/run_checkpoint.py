"""Checkpoints from which a run goes on as if it had never stopped."""

import math
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.core.archive import classes_in, shown, verify
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import StepCounter, from_its_start
from lit_ft.core.passes.window import window_starts
from lit_ft.running.arguments import stays_ended
from lit_ft.running.as_written import AsWritten
from lit_ft.running.averaged import average, write_average
from lit_ft.running.direction import direction
from lit_ft.running.epoch_state import epoch_state
from lit_ft.running.fetches import Fetches
from lit_ft.running.files import commit, digest_file, is_whole, removed_on_failure
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.not_finite import may_save
from lit_ft.running.resume_point import ResumePoint, add_resume_point
from lit_ft.running.run_folder import remove_half_written
from lit_ft.running.stop_signals import StopSignals, ended_by

OLD = 10.0  # seconds: what a save at the start of an epoch may cost is little beside it


class RunCheckpoint(AsWritten):
    """Saves a run between two batches, durably, with every rank's randomness; resuming is bit-exact.

    Beside Lightning's own content, a checkpoint holds the state of all global random generators of all ranks, the
    number of rows in ``metrics.csv`` (which is cut back to them on resume), and the position of every stateful loader
    before the batch that is already fetched. It is written to a temporary file, synced, read back and compared with its
    checksums, and renamed; only then is the previous one deleted. Where hyper-parameters hold classes, it says once how
    such a file is resumed. On Ctrl-C and SIGTERM the run saves once more and says where, before it ends as Lightning
    ends it: at the end of the accumulation window, after a validation in progress; a second Ctrl-C ends it at once.

    Exact for modules whose state is in checkpoints and for loaders with ``state_dict``; a loader without it starts its
    epoch again (Lightning warns), and wall-clock values differ. It makes itself the first callback of the trainer.
    Weights that are not finite end the run, and are not saved either way (see :class:`~lit_ft.callbacks.NotFinite`).
    Refuses to begin a run in a folder with checkpoints; resuming from an earlier checkpoint removes later ones.

    Args:
        every_n_steps: Optimizer steps between two checkpoints; there is also one at the end of the run, and one at the
            start of an epoch when the last is more than ten seconds old. None: only these.
        keep: How many to keep, at least 1; with 2, the run can go on if the newest is damaged.
        monitor: Logged key, checked after each validation; the weights of its best value are kept as ``best.ckpt``.
        mode: Whether the lowest (``min``) or the highest (``max``) value is the best; None is what the metric of that
            name says, see :func:`~lit_ft.running.direction.direction`.
        folder: Folder to write to; None is ``checkpoints`` in that of the first logger, else in ``default_root_dir``.

    See also: :class:`~lit_ft.callbacks.WarmStart`, which loads weights alone.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _ = fit_foreign([RunCheckpoint(every_n_steps=2, keep=2)], max_steps=5, default_root_dir="run")
        >>> sorted(path.name for path in Path("run/checkpoints").glob("*.ckpt"))
        ['step=00000004.ckpt', 'step=00000005.ckpt']
    """

    first = True  # a checkpoint is taken before any other callback has touched the next batch
    remembers = ("best", "best_step", "best_of", "best_mode")
    forgets = (*AsWritten.forgets, "_saved_step", "_fetches", "_summed", "_resumed", "_looked")

    def __init__(
        self,
        every_n_steps: PositiveInt | None = 500,
        keep: PositiveInt = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps, self.keep, self.monitor, self.mode, self.folder = every_n_steps, keep, monitor, mode, folder
        self._saved_at = time.monotonic()
        self._between_batches = False
        self._signals = StopSignals()
        self._directory = Path()
        self.best: float | None = None
        self.best_step: int | None = None
        self.best_of: str | None = None
        self.best_mode: str | None = None
        self._saved_step = 0
        self._looked = False
        self._average: dict[str, Tensor] | None = None
        self._count = StepCounter()
        self._fetches = Fetches()
        self._summed: dict[str, Any] | None = None
        self._resumed: ResumePoint | None = None

    # saving

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save before this batch if a checkpoint is due; after a resume restore the randomness first."""
        self._summed = None
        if self._resumed is not None:
            self._resumed.before_first_batch(trainer)
            self._resumed = None
        step = trainer.global_step
        if not window_starts(trainer, batch_idx):
            return
        due = self._count.passed(trainer, self.every_n_steps)
        if (number := self._asked_to_stop(trainer)) is not None:
            if step != self._saved_step:
                self._save_between(trainer)
            self._say(trainer, number)
            raise ended_by(number)
        if step == self._saved_step:
            return
        if due or (batch_idx == 0 and self._is_old(trainer)):
            self._save_between(trainer)

    def _is_old(self, trainer: pl.Trainer) -> bool:
        """Whether the last checkpoint is old; all ranks use the answer of the first."""
        return trainer.strategy.broadcast(time.monotonic() - self._saved_at > OLD)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the randomness from which the epoch's order may be drawn."""
        self._fetches.epoch_starts()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the epoch has summed up, as the run may end inside of it, and where its loaders stand."""
        self._summed = epoch_state(trainer)
        self._fetches.epoch_ends(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run."""
        self._signals.restore()
        self._average = average(trainer)
        if trainer.global_step != self._saved_step or self._average is not None:
            self._save_between(trainer)
        self._average = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End as asked, also where the wish came too late to cut the training short."""
        if self._signals.received is not None:
            number, self._signals.received = self._signals.received, None
            self._say(trainer, number)
            raise ended_by(number)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._signals.restore()
        self.leave(trainer, pl_module)

    def _asked_to_stop(self, trainer: pl.Trainer) -> signal.Signals | None:
        """The signal that any rank received, so that all of them stop at the same batch."""
        if trainer.world_size == 1:
            return self._signals.received
        anyone = trainer.strategy.reduce_boolean_decision
        if not anyone(self._signals.received is not None, all=False):
            return None
        return signal.SIGINT if anyone(self._signals.received == signal.SIGINT, all=False) else signal.SIGTERM

    def _say(self, trainer: pl.Trainer, number: signal.Signals) -> None:
        if trainer.is_global_zero:
            place = self._directory / f"step={self._saved_step:08d}.ckpt"
            said = f"saved: {place}" if place.exists() else "nothing is saved, as no step was made"
            with suppress(OSError):  # the terminal may be what is gone
                print(f"{number.name}: {said}", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights when the monitored value is the best so far."""
        if self.monitor is None or trainer.sanity_checking or (not trainer.training and trainer.state.fn != "fit"):
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ConfigError("monitor", self.monitor, f"a logged key: {known}")
        value = float(trainer.callback_metrics[self.monitor])
        mode = self.mode or direction("monitor", self.monitor, pl_module)
        if self.best_mode not in (None, mode):  # in the run that goes on here
            self.best = None
        sign = 1 if mode == "min" else -1
        if math.isfinite(value) and (self.best is None or sign * value < sign * self.best):
            self.best, self.best_step = value, trainer.global_step
            self.best_of, self.best_mode = self.monitor, mode
            self._write(trainer, self.directory(trainer) / "best.ckpt", weights_only=True)

    def _save_between(self, trainer: pl.Trainer) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        directory = self.directory(trainer)
        self._between_batches = True
        try:
            self._write(trainer, directory / f"step={trainer.global_step:08d}.ckpt", weights_only=False)
        finally:
            self._between_batches = False
        if trainer.is_global_zero:
            remove({*directory.glob("step=*.ckpt")} - {*self._passed(trainer, directory)[-self.keep :]})

    def _passed(self, trainer: pl.Trainer, directory: Path) -> list[Path]:
        """The checkpoints up to the present step."""
        known = sorted(directory.glob("step=*.ckpt"))
        return [path for path in known if path.name <= f"step={trainer.global_step:08d}.ckpt"]

    def _write(self, trainer: pl.Trainer, path: Path, weights_only: bool) -> None:
        if not may_save(trainer):
            return
        aside = path.with_name(f".{path.name}.tmp")
        with removed_on_failure(aside):
            trainer.save_checkpoint(aside, weights_only=weights_only)
            if trainer.is_global_zero:
                if aside.is_file():  # a sharded checkpoint is a folder that its strategy reads
                    verify(aside)
                    self._say_how_to_resume(aside)
                commit(aside, path)
        trainer.strategy.barrier("checkpoint")

    def _say_how_to_resume(self, file: Path) -> None:
        """Once a run: hyper-parameters may hold classes, which Lightning does not load by itself."""
        if not self._looked and (found := classes_in(file)):
            rank_zero_warn(
                f"RunCheckpoint: checkpoints of this run hold {shown(found)}; resume with trainer.fit(..., "
                "weights_only=False), or after naming these to torch.serialization.add_safe_globals"
            )
        self._looked = True

    def directory(self, trainer: pl.Trainer) -> Path:
        """The folder of this run's checkpoints; all ranks ask for it together."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"

    def _tidy(self, trainer: pl.Trainer, directory: Path) -> None:
        """Remove what a kill left half written, and bring the best weights so far into a new folder."""
        best = directory / "best.ckpt"
        if trainer.is_global_zero:
            remove_half_written(directory)
            remove(self._passed(trainer, directory)[: -self.keep])
            for note in directory.glob("*.ckpt.sha256"):
                if not note.with_suffix("").exists():
                    note.unlink()
            if self.best is not None and trainer.ckpt_path is not None and not best.exists():
                source = Path(trainer.ckpt_path).parent / best.name
                if is_whole(source):
                    directory.mkdir(parents=True, exist_ok=True)
                    aside = best.with_name(f".{best.name}.tmp")
                    shutil.copyfile(source, aside)
                    commit(aside, best)
        if self.best is not None and not trainer.strategy.broadcast(best.exists()):
            rank_zero_warn(f"there is no whole best.ckpt beside {trainer.ckpt_path}: the best value counts from here")
            self.best = None

    # content of a checkpoint

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add randomness, the rows logged, and the progress counters of the point between two batches."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self._between_batches:
            return
        rows = [logger.rows for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        add_resume_point(checkpoint, trainer, self._fetches, self._summed, rows)
        checkpoint["run_checkpoint"]["stopped"] = trainer.should_stop
        if self._average:
            write_average(checkpoint, pl_module, self._average)

    # resuming

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state that is needed once training starts."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if "run_checkpoint" not in checkpoint or trainer.state.fn != "fit":
            return
        ended = checkpoint["run_checkpoint"].get("stopped", False)
        trainer.should_stop = ended and stays_ended(checkpoint, self._made_with)
        self._resumed = ResumePoint(checkpoint)
        self._saved_step = checkpoint["global_step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore counters and loaders, and cut ``metrics.csv`` back to the rows at the time of the checkpoint."""
        directory = self._directory = self.directory(trainer)
        if from_its_start(trainer) and any(directory.glob("*.ckpt")):
            raise ConfigError("folder", str(directory), "one without checkpoints, or ckpt_path to go on from them")
        self._saved_at = time.monotonic()
        self._tidy(trainer, directory)
        self._count.begin(trainer)
        self._signals.listen()
        if trainer.received_sigterm:  # before anybody could save
            self._signals.note(signal.SIGTERM)
        self._fetches.follow(trainer)
        if self._resumed is None:
            return
        self._resumed.before_training(trainer, self._fetches)
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        if trainer.is_global_zero:
            for file, rows in zip(files, self._resumed.rows, strict=False):
                file.cut(rows)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value, unless it is of another key than the one that is watched now."""
        unknown = {"best_step": None, "best_of": self.monitor, "best_mode": None}  # of earlier versions
        super().load_state_dict({**unknown, **state_dict})
        if self.best_of != self.monitor:
            self.best = self.best_step = self.best_of = self.best_mode = None

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the loops of the trainer as they were."""
        self._fetches.leave(trainer)


def remove(checkpoints: Iterable[Path]) -> None:
    """Remove checkpoints, and what says that they are whole."""
    for path in checkpoints:
        path.unlink()
        digest_file(path).unlink(missing_ok=True)


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest undamaged checkpoint in a folder of ``RunCheckpoint``, and the damaged ones that are newer.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _ = fit_foreign([RunCheckpoint(every_n_steps=1)], max_steps=2, default_root_dir="other")
        >>> _ = Path("other/checkpoints/step=00000002.ckpt").write_text("damaged")
        >>> found, damaged = newest_whole(Path("other/checkpoints"))
        >>> found.name, [path.name for path in damaged]
        ('step=00000001.ckpt', ['step=00000002.ckpt'])
    """
    damaged: list[Path] = []
    for path in sorted(folder.glob("step=*.ckpt"), reverse=True):
        if is_whole(path):
            return path, damaged
        damaged.append(path)
    return None, damaged
