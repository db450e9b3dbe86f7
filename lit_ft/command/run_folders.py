"""Where a command begins and what it writes to: run folders and the checkpoints in them."""

import os
from datetime import datetime
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError, existing
from lit_ft.running.files import write_text
from lit_ft.running.report import read_report
from lit_ft.running.run_checkpoint import newest_whole


def place(request: Request, text: str) -> tuple[Path | None, Path]:
    """The checkpoint that a stage begins from, if any, and the folder that it writes to, made ready for it.

    Args:
        request: What is to be run.
        text: The resolved configuration, as it is written into a run folder.
    """
    checkpoint, folder = chosen(request)
    if "LOCAL_RANK" in os.environ and "LIT_FT_RUN_DIR" in os.environ:  # a rank that Lightning started
        folder = Path(os.environ["LIT_FT_RUN_DIR"])
    folder = folder or new_folder(Path(request.runs), request.run_name)
    if "LOCAL_RANK" not in os.environ:
        if request.command == "fit" and checkpoint is None:
            check_unused(folder)
            clear_dead(folder, text)
        os.environ["LIT_FT_RUN_DIR"] = str(folder)
    return checkpoint, folder


def chosen(request: Request) -> tuple[Path | None, Path | None]:
    """What ``--ckpt_path``, ``--run`` and ``--run_dir`` mean together: a checkpoint and a folder; None is new."""
    stage, which, run = request.command, request.ckpt_path, request.run
    folder = Path(request.run_dir) if request.run_dir else None
    if which is None and run:
        if stage == "fit":
            allowed = "together with --ckpt_path last, to go on with that run; --from RUN takes its weights alone"
            raise ConfigError("--run", run, allowed)
        which = "last"
    if which is None:
        if stage != "fit" and request.start:
            raise ConfigError("--from", request.start, f"what fit starts from; {stage} takes a run with --run RUN")
        return None, folder
    if which in ("last", "best"):
        if run:
            source = existing("--run", run)
        else:
            source = folder or find_run(Path(request.runs), request.run_name, finished=stage != "fit")
        return find_checkpoint(which, source), folder or source
    checkpoint = existing("--ckpt_path", which)
    if checkpoint.is_dir():
        raise ConfigError("--ckpt_path", str(checkpoint), "last, best or a file; of another run with --run")
    if stage != "fit" and checkpoint.parent.name == "checkpoints":
        folder = folder or checkpoint.parent.parent
    return checkpoint, folder


def new_folder(runs: Path, name: str) -> Path:
    """A folder that does not exist yet: ``runs/<name>/<time>``, with a suffix for starts in the same second."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = runs / name / stamp, 2
    while folder.exists():
        folder, number = runs / name / f"{stamp}_{number}", number + 1
    return folder


def check_unused(folder: Path) -> None:
    """Refuse to begin a run where another one has left its checkpoints: ``last`` would mean either."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--run_dir", str(folder), "a folder, there already or not; this is a file")
    if any((folder / "checkpoints").glob("*.ckpt")):
        allowed = "a folder without checkpoints; --ckpt_path last goes on with the run that is there"
        raise ConfigError("--run_dir", str(folder), allowed)


def clear_dead(folder: Path, text: str) -> None:
    """Remove what a run left that ended before its first checkpoint; its config becomes that of the run to come."""
    if (folder / "report.json").exists():
        write_text(folder / "config.yaml", text)
    for left in ("metrics.csv", "report.json"):
        (folder / left).unlink(missing_ok=True)


def find_run(runs: Path, name: str, finished: bool) -> Path:
    """The newest run of a name that has checkpoints (and has finished)."""
    found = sorted((runs / name).glob("*/checkpoints"), key=lambda p: p.parent.name, reverse=True)
    for checkpoints in found:
        if not finished or read_report(checkpoints.parent).get("status") == "finished":
            return checkpoints.parent
    kind = "finished run" if finished else "run with a checkpoint"
    raise ConfigError(
        "--ckpt_path", "last or best", f"a {kind} of the name {name!r} in {runs}/ (or --run DIR); there is none"
    )


def find_checkpoint(which: str, run: Path) -> Path:
    """The file that ``last``, ``best`` or a path means."""
    if which == "best":
        return existing("--ckpt_path best", run / "checkpoints" / "best.ckpt")
    if which != "last":
        return existing("--ckpt_path", which)
    newest, damaged = newest_whole(run / "checkpoints")
    for path in damaged:
        rank_zero_warn(f"{path} is damaged (its digest does not match); falling back to the checkpoint before it")
    if newest is None:
        raise ConfigError("--ckpt_path", "last", f"a run with a whole checkpoint; {run}/checkpoints has none")
    return newest
