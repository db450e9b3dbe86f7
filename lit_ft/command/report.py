"""``lit-ft report RUN ...``: a table over runs, and their curves on one page."""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lit_ft.command.path_ends import ends
from lit_ft.core.errors import ConfigError, existing
from lit_ft.running.figures import curves, svg
from lit_ft.running.files import write_text
from lit_ft.running.metrics_file import History, read_history
from lit_ft.running.page import document, figure, table
from lit_ft.running.report import read_report
from lit_ft.running.run_folder import status_of


def report_command(argv: Sequence[str]) -> int:
    """Print the table, and write the page when asked."""
    parser = argparse.ArgumentParser("lit-ft report", description="A table over runs; curves side by side with --html.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders that contain them")
    parser.add_argument(
        "--keys",
        nargs="*",
        default=(),
        metavar="KEY",
        help="metrics to show; those of the test by default, else of validation",
    )
    parser.add_argument("--html", metavar="FILE", help="write the curves of all runs over one another")
    options = parser.parse_args(list(argv))
    if options.html and Path(options.html).is_dir():
        raise ConfigError("--html", options.html, "a file to write, not a folder")
    folders = find_runs(options.runs)
    reports = {label: read_report(folder) for label, folder in folders.items()}
    logged = sorted({key for report in reports.values() for key in report["metrics"]})
    tested = [key for key in logged if key.startswith("test/")]
    keys = list(options.keys) or tested or [key for key in logged if key.startswith("val/")]
    unknown = [key for key in keys if not any(key in report["metrics"] for report in reports.values())]
    if unknown:
        known = sorted({key for report in reports.values() for key in report["metrics"]})
        raise ConfigError("--keys", unknown[0], ", ".join(known))
    show({label: {**report, "status": status_of(folders[label])} for label, report in reports.items()}, keys)
    if options.html:
        write_text(Path(options.html), compare_page(folders, reports, keys))
        print(f"curves: {options.html}")
    return 0


def find_runs(places: Sequence[str]) -> dict[str, Path]:
    """Every run folder in the places under the end of its path, two parts or as many as tell it from the others."""
    runs: list[Path] = []
    for place in places:
        found = sorted(path.parent for path in existing("RUN", place).rglob("report.json"))
        if not found:
            raise ConfigError("RUN", place, "a folder with a report.json in it or below")
        runs += [run for run in found if run not in runs]
    return dict(zip(ends(runs, least=2), runs, strict=True))


def show(reports: dict[str, dict[str, Any]], keys: Sequence[str]) -> None:
    """Print one row a run."""
    from rich.console import Console
    from rich.markup import escape as escape_markup
    from rich.table import Table

    grid = Table(box=None, header_style="bold")
    for column in ("run", *keys, "steps", "seconds", "samples/s", "MiB"):
        grid.add_column(escape_markup(column), justify="left" if column == "run" else "right", overflow="fold")
    for label, report in reports.items():
        values = [report["metrics"].get(key) for key in keys]
        facts = [report.get("steps"), report.get("wall_seconds"), report.get("samples_per_second")]
        memory = report.get("peak_memory_bytes", 0) / 2**20
        status = "" if report.get("status") in ("finished", None) else f" ({report['status']})"
        numbers = (f"{v:.4g}" if v is not None else "-" for v in [*values, *facts, memory])
        grid.add_row(escape_markup(label + status), *numbers)
    Console().print(grid)


def compare_page(folders: dict[str, Path], reports: dict[str, dict[str, Any]], keys: Sequence[str]) -> str:
    """One figure a key with a curve a run, above the table."""
    by_key: dict[str, History] = {}
    for label, folder in folders.items():
        for key, curve in read_history(folder / "metrics.csv").items():
            by_key.setdefault(key, {})[f"{label}"] = curve
    plots = []
    for key, runs in sorted(by_key.items()):
        figures = curves({f"{key.replace('/', ' ')}/{label}": curve for label, curve in runs.items()})
        plots += [figure(key, svg(drawn)) for drawn in figures.values()]
    rows = {label: {key: report["metrics"].get(key) for key in keys} for label, report in reports.items()}
    tables = "".join(f"<h2>{escape(label)}</h2>{table(values)}" for label, values in rows.items())
    return document("runs", f'<h1>Runs</h1><div class="plots">{"".join(plots)}</div>{tables}')
