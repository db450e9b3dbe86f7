"""The results of a study for a reader: terminal, page, and a row of the gallery."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_ft.running.figures import svg, without_formulas
from lit_ft.running.metrics_file import read_history
from lit_ft.running.page import document, figure, grid, table
from lit_ft.studies.grid import tuned_lines
from lit_ft.studies.interval import t_interval
from lit_ft.studies.plan import Planned, what_seeds_draw
from lit_ft.studies.study import Study
from lit_ft.studies.verdict import FAILS, ClaimVerdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(result: Mapping[str, Any]) -> None:
    """Print measures by arm and the verdict with its numbers."""
    from rich.console import Console
    from rich.markup import escape as escape_markup
    from rich.table import Table

    console = Console()
    measures = list(next(iter(result["values"].values())))
    grid = Table(box=None)
    for column in ("arm", *measures):
        grid.add_column(escape_markup(column), justify="left" if column == "arm" else "right")
    for arm, own in result["values"].items():
        grid.add_row(arm, *(mean_and_sd(own[name]) for name in measures))
    console.print(grid)
    console.print(what_seeds_draw(result["drawn"]), markup=False)
    for line in tuned_lines(result["tuned"]) if "tuned" in result else ():
        console.print(line, markup=False)
    for claim in map(ClaimVerdict.of, result["claims"]):
        console.print(f"{claim.verdict}{' (main)' if claim.main and len(result['claims']) > 1 else ''}: {claim.says}",
                      style="bold", markup=False)  # fmt: skip
        for one in claim.given:
            met = "met" if one.verdict != FAILS else "not met"
            console.print(f"  precondition {met}: {one.text}   ({one.numbers()})", markup=False)
        for one in claim.judged:
            console.print(f"  {one.verdict}: {one.text}   ({one.numbers()})", markup=False)
        if claim.diverged:
            console.print(f"  {claim.headline()}", markup=False)


def mean_and_sd(values: Sequence[float]) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"


def page(study: Study, result: Mapping[str, Any], planned: Sequence[Planned]) -> str:
    """The study as one self-contained page."""
    figures = [curves(study, planned)] if study.plot else [by_arm(result)]
    rows = {arm: {name: mean_and_sd(v) for name, v in own.items()} for arm, own in result["values"].items()}
    claims = "".join(_claim(claim) for claim in map(ClaimVerdict.of, result["claims"]))
    facts = {k: result[k] for k in ("seeds", "drawn", "date", "hardware", "note", "scale") if result[k]}
    drawn = "".join(figure(study.plot or "measures by arm", svg(one)) for one in figures)
    body = (
        f"<h1>{escape(study.name)}: {escape(result['verdict'])}</h1>{claims}"
        f'<div class="plots">{drawn}</div>'
        f"<h2>Measures</h2>{grid(rows)}{_tuned(result)}<h2>Study</h2>{table(facts)}"
        f"<details><summary>Environment</summary>{table(result['versions'])}</details>"
    )
    return document(study.name, body)


def _tuned(result: Mapping[str, Any]) -> str:
    """Every point that was tried, with its score, and what was chosen, as a part of the page."""
    if "tuned" not in result:
        return ""
    tuned, parts = result["tuned"], []
    for line, (arm, found) in zip(tuned_lines(tuned), tuned["arms"].items(), strict=True):
        scores = ["diverged" if score is None else f"{score:.4g}" for score in found["scores"]]
        names = [", ".join(f"{key} {value}" for key, value in point.items()) for point in found["points"]]
        parts.append(f"<p>{escape(line)}</p>{table({f'{arm}: {n}': s for n, s in zip(names, scores, strict=True)})}")
    how = f"{tuned['by']} ({tuned['mode']}), {tuned['take']}, seeds {tuned['seeds']}"
    return f"<h2>Tuned by {escape(how)}</h2>{''.join(parts)}"


def _claim(claim: ClaimVerdict) -> str:
    """A claim with its statements, as a part of the page."""
    rows = {one.text: f"{one.verdict}: {one.numbers()}" for one in claim.judged}
    given = {f"given {one.text}": f"{'not met' if one.verdict == FAILS else 'met'}: {one.numbers()}"
             for one in claim.given}  # fmt: skip
    lost = {f"diverged in {arm}": count for arm, count in claim.diverged.items()}
    return f"<p>{escape(claim.says)}: <b>{escape(claim.verdict)}</b></p>{table({**given, **rows, **lost})}"


def by_arm(result: Mapping[str, Any]) -> "Figure":
    """One panel a measure: every seed a dot, the mean with Student's 95 % interval."""
    from matplotlib.figure import Figure

    arms = list(result["values"])
    measures = list(result["values"][arms[0]])
    figure = Figure(figsize=(1.6 + 2.6 * len(measures), 0.9 + 0.35 * len(arms)), layout="constrained")
    for number, name in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), number + 1)
        for row, arm in enumerate(arms):
            values = np.array(result["values"][arm][name])
            axes.plot(values, np.full(len(values), row), ".", color="0.6")
            found = t_interval(values)
            sides = [
                [max(side, 0)] if np.isfinite(side) else [0.0]
                for side in (found.mean - found.low, found.high - found.mean)
            ]
            axes.errorbar(found.mean, row, xerr=sides, fmt="o", color="C0", capsize=3)
        axes.set_yticks(range(len(arms)), arms if number == 0 else [""] * len(arms))
        axes.set_title(name, fontsize="medium")
        axes.invert_yaxis()
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", scilimits=(-4, 5), useOffset=False)
        axes.grid(alpha=0.25)
    return figure


def curves(study: Study, planned: Sequence[Planned]) -> "Figure":
    """The plotted key over steps: a line an arm, seeds as its band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, arm in enumerate(study.arms):
        histories = [read_history(r.folder / "metrics.csv") for r in planned if r.arm == arm and r.final]
        runs = [history[study.plot] for history in histories if study.plot in history]
        if not runs:
            continue
        length = min(len(steps) for steps, _ in runs)
        values = np.array([values[:length] for _, values in runs])
        steps = runs[0][0][:length]
        axes.plot(steps, values.mean(0), color=f"C{number}", label=arm)
        axes.fill_between(steps, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
    axes.set(xlabel="step", title=study.plot)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    without_formulas(figure)
    return figure
