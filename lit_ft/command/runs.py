"""``lit-ft runs``: which runs go on, are finished, or dead, and how to go on with each."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from lit_ft.core.errors import existing
from lit_ft.running.run_folder import by_start, checkpoints, is_begun, report_of, status_of


def runs_command(argv: Sequence[str]) -> int:
    """Print a line a run, and below those that are neither finished nor going on how to go on."""
    parser = argparse.ArgumentParser("lit-ft runs", description="Runs, what became of them, and how to go on.")
    parser.add_argument("folder", nargs="?", default="runs", metavar="RUNS", help="the folder of all runs")
    options = parser.parse_args(list(argv))
    found = list(begun(existing("RUNS", options.folder)))
    width = max((len(str(folder)) for folder in found), default=0)
    for folder in found:
        report, status = report_of(folder), status_of(folder)
        steps = "" if report.get("steps") is None else f", {report['steps']} steps"
        values = {
            key: value for key, value in (report.get("metrics") or {}).items() if key.startswith(("val/", "test/"))
        }
        shown = "".join(f", {key} {value:.4g}" for key, value in list(values.items())[:3])
        print(f"{folder!s:{width}}  {status}{steps}{shown}")
        if advice := how_to_go_on(folder, status):
            print(f"{'':{width}}    {advice}")
    if not found:
        print(f"no runs in {options.folder}/")
    return 0


def begun(folder: Path) -> Iterator[Path]:
    """Every run in a folder or below, by name and start."""
    if is_begun(folder):
        yield folder
        return
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    runs = sorted((path for path in inside if is_begun(path)), key=by_start)
    yield from runs
    for path in sorted(path for path in inside if path not in runs):
        yield from begun(path)


def how_to_go_on(folder: Path, status: str) -> str:
    """The command that goes on with a run, or takes what is there; empty where a process does.

    Example:
        >>> how_to_go_on(Path("runs/it/1"), "dead")
        'begins anew: lit-ft fit --run runs/it/1 --ckpt_path last'
        >>> how_to_go_on(Path("runs/it/1"), "running"), how_to_go_on(Path("runs/it/1"), "diverged")
        ('', 'a finite checkpoint or none: lit-ft fit -c FILE, with a lower rate')
    """
    if status.startswith("running"):
        return ""
    if status == "finished":
        return (
            f"use: lit-ft test --run {folder}; longer: lit-ft fit --run {folder} --ckpt_path last --trainer.max_steps N"
        )
    if status == "diverged":
        return "a finite checkpoint or none: lit-ft fit -c FILE, with a lower rate"
    verb = "goes on" if checkpoints(folder) else "begins anew"
    return f"{verb}: lit-ft fit --run {folder} --ckpt_path last"
