"""The report of a run: one JSON file of numbers and one self-contained page."""

import io
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_ft.core.errors import ConfigError
from lit_ft.running.files import write_text
from lit_ft.running.metrics_file import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDED = ("finished", "diverged")  # what the report says of a run that came to its end
PACKAGES = ("lit-ft", "lightning", "torch", "transformers", "torchmetrics", "datasets", "peft", "jsonargparse")

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d8dde3}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
td.number{font-variant-numeric:tabular-nums}td table{margin:0}.muted{color:#667}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem}.plots svg{width:100%;height:auto}
pre{background:#f5f7f9;padding:.8rem;overflow:auto;font-size:13px}
"""


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence a result.

    Example:
        >>> versions()["python"] == platform.python_version(), "torch" in versions()
        (True, True)
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether files differ from it; None outside a repository.

    Example:
        >>> git_state() is None  # here, outside of a repository
        True
    """
    try:
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def read_report(folder: Path) -> dict[str, Any]:
    """The numbers of a run so far; empty if there is no report.

    Raises:
        ConfigError: The file is no report.

    Example:
        >>> read_report(Path("run"))
        {}
        >>> write_report(Path("run"), {"name": "run", "metrics": {"val/loss": 2.25}})
        >>> read_report(Path("run"))["metrics"]
        {'val/loss': 2.25}
    """
    path = folder / "report.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "report.json", str(path), "a report as a run writes it; without the file it is none"
        ) from error


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json``.

    See also: :func:`read_report`.

    Example:
        >>> write_report(Path("run"), {"name": "run", "steps": 3})
        >>> print((Path("run") / "report.json").read_text(), end="")
        {
          "name": "run",
          "steps": 3
        }
    """
    write_text(folder / "report.json", json.dumps(report, indent=2, default=float) + "\n")


def final_values(history: History) -> dict[str, float]:
    """The last value of every logged key.

    Example:
        >>> final_values({"train/loss": ([1, 2], [2.5, 2.0]), "val/loss": ([2], [2.25])})
        {'train/loss': 2.0, 'val/loss': 2.25}
    """
    return {key: values[-1] for key, (_, values) in sorted(history.items())}


def curves(history: History) -> "dict[str, Figure]":
    """One figure for the losses, one for the learning rates, and one for every other family of keys.

    Example:
        >>> history = {"train/loss": ([1, 2], [2.5, 2.0]), "val/loss": ([1, 2], [2.5, 2.25])}
        >>> history["lr-SGD"] = ([1, 2], [0.1, 0.1])
        >>> list(curves(history))
        ['loss', 'learning rate']
    """
    from matplotlib.figure import Figure

    families: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for key, curve in history.items():
        stage, _, quantity = key.partition("/")
        family = "learning rate" if key.startswith("lr-") else quantity if stage in ("train", "val", "test") else stage
        families.setdefault(family, {})[key] = curve
    figures = {}
    for family, members in sorted(families.items(), key=lambda pair: (pair[0] != "loss", pair[0])):
        if all(len(steps) < 2 for steps, _ in members.values()):
            continue
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for key, (steps, values) in members.items():
            axes.plot(steps, values, marker="." if len(steps) < 30 else "", linewidth=1.2, label=key)
        axes.set(xlabel="step", title=family)
        axes.grid(alpha=0.25)
        if len(members) <= 8:
            axes.legend(fontsize="small", frameon=False)
        without_formulas(figure)
        figures[family] = figure
    return figures


def without_formulas(figure: "Figure") -> None:
    """Show the names in a figure as they are written: a dollar sign begins no formula.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> _ = figure.suptitle("cost in $ and $_{^")
        >>> without_formulas(figure)
        >>> "cost in $ and $_{^" in svg(figure)
        True
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]


def svg(figure: "Figure") -> str:
    """A figure as inline SVG.

    Example:
        >>> from matplotlib.figure import Figure
        >>> svg(Figure())[:60]
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="460.8'
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lit_ft", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _text(value: Any) -> str:
    """A value as text: numbers with five digits, of a long list only both ends."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        parts = [_text(item) for item in value]
        return ", ".join(parts if len(parts) <= 12 else [*parts[:5], "\N{HORIZONTAL ELLIPSIS}", *parts[-5:]])
    return str(value)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"<td>{table(value)}</td>"
    kind = "number" if isinstance(value, (int, float)) else "text"
    return f'<td class="{kind}">{escape(_text(value))}</td>'


def save_figures(figures: "Mapping[str, Figure]", folder: Path) -> dict[str, str]:
    """Write figures as ``<name>.svg`` and ``<name>.png`` into a folder; the layout of each is computed once.

    Returns:
        The name of each file, without its ending, by the name of the figure.

    Example:
        >>> from matplotlib.figure import Figure
        >>> save_figures({"learning rate": Figure()}, Path("plots"))
        {'learning rate': 'learning_rate'}
        >>> sorted(path.name for path in Path("plots").iterdir())
        ['learning_rate.png', 'learning_rate.svg']
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: name.replace("/", "_").replace(" ", "_") for name in figures}
    for name, figure in figures.items():
        try:
            drawing = svg(figure)
        except ValueError:  # a name of the user that cannot be set as a formula
            without_formulas(figure)
            drawing = svg(figure)
        write_text(folder / f"{files[name]}.svg", drawing)
        figure.set_layout_engine("none")
        figure.savefig(folder / f"{files[name]}.png", dpi=120)
    return files


def table(rows: Mapping[str, Any]) -> str:
    """A mapping as an HTML table of two columns; inner mappings are inner tables.

    Example:
        >>> table({"steps": 1000})
        '<table><tr><td>steps</td><td class="number">1,000</td></tr></table>'
    """
    return "<table>" + "".join(f"<tr><td>{escape(str(k))}</td>{_cell(v)}</tr>" for k, v in rows.items()) + "</table>"


def grid(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Named rows with the same columns, as an HTML table with a header.

    Example:
        >>> grid({"SAM": {"accuracy": "0.9"}})
        '<table><tr><th></th><th>accuracy</th></tr><tr><td>SAM</td><td class="text">0.9</td></tr></table>'
    """
    columns = list(next(iter(rows.values()), {}))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *columns))
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_cell(own[column]) for column in columns)}</tr>"
        for name, own in rows.items()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def page(report: Mapping[str, Any], drawings: Sequence[str], config: str) -> str:
    """The whole HTML page, with inline SVG drawings.

    Example:
        >>> html = page({"name": "run", "metrics": {"val/loss": 2.25}}, drawings=["<svg></svg>"], config="seed: 0")
        >>> [part in html for part in ("<title>run</title>", "<td>val/loss</td>", "<svg></svg>", "<pre>seed: 0</pre>")]
        [True, True, True, True]
    """
    facts = {key: value for key, value in report.items() if not isinstance(value, dict)}
    parts = [f"<h2>Results</h2>{table(report.get('metrics', {}))}"]
    if drawings:
        parts.append(f'<h2>Curves</h2><div class="plots">{"".join(f"<div>{text}</div>" for text in drawings)}</div>')
    for name, summary in report.get("callbacks", {}).items():
        parts.append(f"<h2>{escape(name)}</h2>{table(summary)}")
    if report.get("adapter"):
        parts.append(f"<h2>Modules that the adapter's names mean</h2>{table(report['adapter'])}")
    parts.append(f"<h2>Run</h2>{table(facts)}")
    environment = {**report.get("versions", {}), **report.get("machine", {}), "git": report.get("git")}
    parts.append(f"<details><summary>Environment</summary>{table(environment)}</details>")
    parts.append(f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>")
    title = escape(str(report.get("name", "run")))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f'<h1>{title}</h1><p class="muted">{escape(str(report.get("started", "")))}</p>{"".join(parts)}</html>\n'
    )
