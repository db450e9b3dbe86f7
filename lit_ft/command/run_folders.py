"""Where a command begins and what it writes to: run folders and the checkpoints in them."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.command.overrides import folder_name, values_of
from lit_ft.core.errors import ConfigError, existing
from lit_ft.running.files import write_text
from lit_ft.running.report import read_report
from lit_ft.running.run_checkpoint import newest_whole


def run_name(args: Sequence[str]) -> str:
    """``--name``, or the stem of the last ``-c``."""
    *_, last = "run", *values_of(args, "-c", "--config")
    return folder_name(next(values_of(args, "--name"), Path(last).stem))


def saved_config(args: Sequence[str]) -> list[str]:
    """With ``--run DIR`` and no ``-c``, the configuration of that run."""
    run = next(values_of(args, "--run"), None)
    if run is None or [*values_of(args, "-c", "--config")]:
        return []
    if not run:
        raise ConfigError("--run", "nothing", "a run folder")
    return ["-c", str(existing("--run", Path(run) / "config.yaml"))]


def place(stage: str, args: Sequence[str], config: Mapping[str, Any], text: str) -> tuple[Path | None, Path]:
    """The checkpoint that a stage begins from, if any, and the folder that it writes to, made ready for it.

    Args:
        stage: What is to be run.
        args: As on the command line.
        config: The parsed configuration.
        text: The resolved configuration, as it is written into a run folder.
    """
    checkpoint, folder = chosen(stage, config, run_name(args))
    if "LOCAL_RANK" in os.environ and "LIT_FT_RUN_DIR" in os.environ:  # a rank that Lightning started
        folder = Path(os.environ["LIT_FT_RUN_DIR"])
    folder = folder or new_folder(Path(config["runs"]), run_name(args))
    if "LOCAL_RANK" not in os.environ:
        if stage == "fit" and checkpoint is None:
            check_unused(folder)
            clear_dead(folder, text)
        os.environ["LIT_FT_RUN_DIR"] = str(folder)
    return checkpoint, folder


def chosen(stage: str, config: Mapping[str, Any], name: str) -> tuple[Path | None, Path | None]:
    """What ``--ckpt_path``, ``--run`` and ``--run_dir`` mean together: a checkpoint and a folder; None is new."""
    checkpoint, folder = config["ckpt_path"], config["run_dir"] and Path(config["run_dir"])
    if checkpoint is None and config["run"]:
        if stage == "fit":
            allowed = "together with --ckpt_path last, to go on with that run; --from RUN takes its weights alone"
            raise ConfigError("--run", config["run"], allowed)
        checkpoint = "last"
    if checkpoint is None:
        if stage != "fit" and config["from"]:
            raise ConfigError("--from", config["from"], f"what fit starts from; {stage} takes a run with --run RUN")
        return None, folder
    if checkpoint in ("last", "best"):
        if config["run"]:
            run = existing("--run", config["run"])
        else:
            run = folder or find_run(Path(config["runs"]), name, finished=stage != "fit")
        return find_checkpoint(checkpoint, run), folder or run
    checkpoint = existing("--ckpt_path", checkpoint)
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
