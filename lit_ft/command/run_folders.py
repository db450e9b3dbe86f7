"""Where a command begins and what it writes to: run folders and the checkpoints in them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.command.request import Request
from lit_ft.core.archive import read
from lit_ft.core.errors import ConfigError, existing
from lit_ft.running.files import digest_file, undamaged, write_text
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.running.run_folder import (
    START,
    by_start,
    checkpoints,
    held,
    in_use,
    is_begun,
    note_machine,
    number_of,
    remove_half_written,
    report_of,
    status_of,
    take_number,
)

RUN_DIR = "LIT_FT_RUN_DIR"  # tells the ranks that Lightning starts where the first one writes


@dataclass(frozen=True)
class Place:
    """Where a stage begins, and where it writes to.

    Args:
        folder: The folder that it writes to; None is a new one.
        checkpoint: The checkpoint that it begins from, if any.
        anew: Whether it begins a run again that left no checkpoint.
    """

    folder: Path | None
    checkpoint: Path | None = None
    anew: bool = False


@contextmanager
def placed(request: Request) -> Iterator[tuple[Path, Path | None, bool]]:
    """The folder that a stage writes to, the checkpoint that it begins from, and whether it begins a run again.

    The first rank has the folder to itself: it is made before anything else, so that of two starts in one second each
    gets its own, and is removed again when nothing came of it.

    Args:
        request: What is to be run.
    """
    if _rank() > 0:
        folder = Path(os.environ[RUN_DIR]) if RUN_DIR in os.environ else None
        place = chosen(request, folder)
        yield place.folder or Path(request.runs) / request.run_name, place.checkpoint, place.anew
        return
    place = chosen(request)
    folder, made = (place.folder, made_folders(place.folder)) if place.folder else new_folder(request)
    found = (folder / START).exists() and folder not in made
    try:
        with held(folder):
            try:
                if request.command == "fit" and (place.checkpoint is None or not is_begun(folder)):
                    take_number(folder, folder.absolute().parent)
                if request.command == "fit":
                    note_machine(folder)
                remove_half_written(folder, folder / "plots")
                say(request.command, place, request)
                os.environ[RUN_DIR] = str(folder)
                yield folder, place.checkpoint, place.anew
            finally:
                if not found or number_of(folder) == report_of(folder).get("number"):
                    (folder / START).unlink(missing_ok=True)
    finally:
        for path in made:
            if path.exists() and not any(path.iterdir()):
                path.rmdir()


def _rank() -> int:
    """The rank of this process, as launchers say it."""
    return int(next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0))


def chosen(request: Request, here: Path | None = None) -> Place:
    """What ``--ckpt_path``, ``--run`` and ``--run_dir`` mean together; nothing is written.

    Args:
        request: What is to be run.
        here: The folder that another rank has chosen.
    """
    stage, which, run = request.command, request.ckpt_path, request.run
    folder = here or (Path(request.run_dir) if request.run_dir else None)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ConfigError("--run_dir", str(folder), "a folder, there already or not; this is a file")
    if which is None and run and stage == "fit":
        allowed = "together with --ckpt_path last, to go on with that run; --from RUN takes its weights alone"
        raise ConfigError("--run", run, allowed)
    if stage != "fit" and request.start:
        raise ConfigError("--from", request.start, f"what fit starts from; {stage} takes a run with --run RUN")
    if which == "none" or (which is None and not run and (stage == "fit" or not begun(request, folder))):
        return Place(folder if stage != "fit" or here else unused(folder))
    if which == "best" and stage == "fit":
        allowed = "last or a file, to go on from; best holds weights alone, which --from checkpoints/best.ckpt takes"
        raise ConfigError("--ckpt_path", which, allowed)
    if which in (None, "last", "best"):
        name, runs = request.run_name, Path(request.runs)
        own = folder if which or (folder and checkpoints(folder)) else None
        source = existing("--run", run) if run else own or find_run(runs, name, finished=stage != "fit")
        to = folder or source
        if stage != "fit" or here:
            return Place(to, weights_of(source) if which is None else find_checkpoint(which, source))
        if not _same(to, source):
            return Place(unused(to), find_checkpoint(which or "last", source))
        if not checkpoints(source) or [path.name for path in checkpoints(source)] == ["best.ckpt"]:
            if not is_begun(source) or report_of(source).get("status") == "finished":
                allowed = f"a run with a checkpoint, or one that ended before its first; {source} is neither"
                raise ConfigError("--ckpt_path", "last", allowed)
            return Place(source, anew=True)
        return Place(source, find_checkpoint(which or "last", source))
    checkpoint = existing("--ckpt_path", which)
    if checkpoint.is_dir():
        raise ConfigError("--ckpt_path", str(checkpoint), "last, best, none or a file; of another run with --run")
    whole_checkpoint(stage, checkpoint)
    own = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
    if stage != "fit":
        return Place(folder or own, checkpoint)
    going_back = folder is not None and own is not None and _same(folder, own)
    return Place(folder if going_back or here else unused(folder), checkpoint)


def begun(request: Request, folder: Path | None) -> bool:
    """Whether there is a run whose weights an evaluation takes when nothing is said: in its folder, or of its name."""
    if folder is not None and checkpoints(folder):
        return True
    found = (Path(request.runs) / request.run_name).glob("[!.]*")
    return any(number_of(path) is not None or checkpoints(path) or "status" in report_of(path) for path in found)


def whole_checkpoint(stage: str, path: Path) -> None:
    """Refuse a file that is no checkpoint of a run, before anything is said or made."""
    undamaged("--ckpt_path", path)
    try:
        content = read("--ckpt_path", path, map_location="meta", mmap=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError) as error:
        raise ConfigError("--ckpt_path", str(path), "a checkpoint; this file cannot be read as one") from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise ConfigError("--ckpt_path", str(path), "a checkpoint of a run; weights alone are what --from takes")
    if stage == "fit" and not {"loops", "optimizer_states"} <= content.keys():
        raise ConfigError("--ckpt_path", str(path), "one to go on from; this holds weights alone: --from takes it")


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def unused(folder: Path | None) -> Path | None:
    """The folder, unless a run or an evaluation has left its files in it: neither would be whole afterwards."""
    if folder is not None and in_use(folder):
        without = "checkpoints" if checkpoints(folder) else "files of another run"
        allowed = f"a folder without {without}; --ckpt_path last goes on with the run that is there"
        raise ConfigError("--run_dir", str(folder), allowed)
    return folder


def made_folders(folder: Path) -> list[Path]:
    """Make a folder; those that were not there before, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def new_folder(request: Request) -> tuple[Path, list[Path]]:
    """Make ``runs/<name>/<time>``, with a suffix for starts in the same second; also what was made for it.

    It is there with its number or not at all, so that a fit that is killed at once is the newest run nevertheless.
    """
    parent = Path(request.runs) / request.run_name
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    aside = parent.with_name(f".{parent.name}.{stamp}.{os.getpid()}")
    made = made_folders(aside)[1:]
    (aside / START).touch()
    if request.command == "fit":
        take_number(aside, parent)
    made = [*made_folders(parent), *made]
    folder, number = parent / stamp, 2
    while True:
        try:
            aside.rename(folder)  # fails where a folder is that is not empty
            return folder, [folder, *made]
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            folder, number = parent / f"{stamp}_{number}", number + 1


def say(stage: str, place: Place, request: Request | None = None) -> None:
    """Which run, step and weights were taken."""
    if place.anew:
        print(f"{stage}: {place.folder} has no checkpoint; it begins anew", flush=True)
    elif (checkpoint := place.checkpoint) is not None:
        verb = "goes on" if stage == "fit" else "takes the weights"
        status = status_of(checkpoint.parent.parent)
        unfinished = "" if stage == "fit" or status == "finished" else f" (the run is {status})"
        best = best_of(checkpoint)
        print(f"{stage}: {verb} from step {step_of(checkpoint)}, {checkpoint}{best}{unfinished}", flush=True)
    elif request is not None and stage != "fit":
        asked = request.ckpt_path == "none"
        why = "--ckpt_path none" if asked else f"there is no run of the name {request.run_name!r} in {request.runs}/"
        beside = [path.parent for path in map(Path, request.paths) if checkpoints(path.parent)]
        hint = f" (--run {beside[-1]} takes the weights of that run)" if beside and not asked else ""
        print(f"{stage}: the network is used as it was built: {why}{hint}", flush=True)


def best_of(checkpoint: Path) -> str:
    """What ``best.ckpt`` is best by, in words; empty for other checkpoints."""
    if checkpoint.name != "best.ckpt":
        return ""
    step = step_of(checkpoint)
    for newest in sorted(checkpoint.parent.glob("step=*.ckpt"), reverse=True)[:1]:  # that of the best has weights alone
        for name, state in contents(newest).get("callbacks", {}).items():
            if name.startswith("RunCheckpoint") and state.get("best_step") == step:
                return f" (best: {state['best_of']} {state['best']:.4g})"
    return " (best)"


def step_of(checkpoint: Path) -> int | str:
    """The step at which a checkpoint was taken."""
    number = checkpoint.name.removeprefix("step=").removesuffix(".ckpt")
    if number.isdecimal():
        return int(number)
    return contents(checkpoint).get("global_step", "unknown")


def contents(checkpoint: Path) -> dict[str, Any]:
    """What is in a checkpoint, without its tensors; nothing where it cannot be read: who loads it will say why."""
    import torch

    try:
        return torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    except Exception:
        return {}


class ClearDead(Callback):
    """Removes, once training is about to begin, what a run left that ended before its first checkpoint.

    Args:
        folder: The run folder.
        config: The resolved configuration of the run to come; it replaces that of the dead one.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear the folder; until now, the command could have been refused."""
        if trainer.is_global_zero:
            if (self.folder / "report.json").exists():
                write_text(self.folder / "config.yaml", self.config)
            for left in (*checkpoints(self.folder), self.folder / "metrics.csv", self.folder / "report.json"):
                left.unlink(missing_ok=True)
                digest_file(left).unlink(missing_ok=True)
        trainer.strategy.barrier("cleared")


class CutRows(Callback):
    """Cuts ``metrics.csv`` back to the step of a checkpoint of Lightning's, which does not know the rows it had."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of the steps before it."""
        for file in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(file, MetricsFile):
                file.cut(sum(int(row["step"]) < trainer.global_step for row in file.read()))


def find_run(runs: Path, name: str, finished: bool) -> Path:
    """The newest run of a name (that has finished and has checkpoints)."""
    found = sorted((path for path in (runs / name).glob("[!.]*") if is_begun(path)), key=by_start, reverse=True)
    for number, folder in enumerate(found):
        if not finished or (report_of(folder).get("status") == "finished" and checkpoints(folder)):
            for newer in found[:number]:
                print(f"not finished, and passed over: {newer} (--run takes it nevertheless)")
            return folder
    kind = "finished run" if finished else "run"
    raise ConfigError(
        "--ckpt_path", "last or best", f"a {kind} of the name {name!r} in {runs}/ (or --run DIR); there is none"
    )


def weights_of(run: Path) -> Path:
    """The weights of a run when nothing else is said: the best where it watched a value, else the last."""
    best = kept_best(run)
    return find_checkpoint("last", run) if best is None else undamaged("--ckpt_path best", best)


def kept_best(run: Path) -> Path | None:
    """The best weights that a run kept: ``best.ckpt``, or what a ModelCheckpoint with a monitor calls its best."""
    best = run / "checkpoints" / "best.ckpt"
    if best.exists():
        return best
    for newest in reversed(others(run)):
        for name, state in contents(newest).get("callbacks", {}).items():
            if name.startswith("ModelCheckpoint") and state.get("monitor") and state.get("best_model_path"):
                found = run / "checkpoints" / Path(state["best_model_path"]).name
                return found if found.exists() else None
    return None


def find_checkpoint(which: str, run: Path) -> Path:
    """The file that ``last``, ``best`` or a path means."""
    if which == "best":
        best = kept_best(run)
        if best is None:
            allowed = f"a run that watched a value, as fit --monitor val/loss does, over a validation; {run} kept none"
            raise ConfigError("--ckpt_path", which, f"{allowed} (last takes its last weights)")
        return undamaged("--ckpt_path best", best)
    if which == "none":
        raise ConfigError("--ckpt_path", which, "last, best or a file: the weights of a run are asked for")
    if which != "last":
        return existing("--ckpt_path", which)
    newest, damaged = newest_whole(run / "checkpoints")
    for path in damaged:
        rank_zero_warn(f"{path} is damaged (its digest does not match); falling back to the checkpoint before it")
    theirs = others(run)
    if newest is None and not theirs:
        raise ConfigError("--ckpt_path", "last", f"a run with a whole checkpoint; {run}/checkpoints has none")
    if newest is not None and theirs and _number(theirs[-1]) > _number(newest):
        print(f"newer, of another callback: {theirs[-1]} at step {_number(theirs[-1])} (--ckpt_path FILE takes it)")
    return newest or theirs[-1]


def others(run: Path) -> list[Path]:
    """Checkpoints that callbacks of Lightning wrote, ``last.ckpt`` of a ModelCheckpoint among them, by their step."""
    found = [path for path in checkpoints(run) if not path.name.startswith("step=") and path.name != "best.ckpt"]
    return sorted(found, key=lambda path: (_number(path), path.name.startswith("last"), path.stat().st_mtime))


def _number(checkpoint: Path) -> int:
    step = step_of(checkpoint)
    return step if isinstance(step, int) else -1
