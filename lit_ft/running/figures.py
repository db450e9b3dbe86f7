"""Figures of a report: curves of what was logged, and files of what callbacks draw."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lit_ft.running.files import write_text
from lit_ft.running.metrics_file import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#76797d"  # of axes: readable on white and on black


def curves(history: History) -> "dict[str, Figure]":
    """One figure for the losses, one for the learning rates, and one for every other family of keys.

    What never changed is no curve.

    Example:
        >>> history = {"train/loss": ([1, 2], [2.5, 2.0]), "val/loss": ([1, 2], [2.5, 2.25])}
        >>> history["lr-SGD"] = ([1, 2], [0.1, 0.05])
        >>> list(curves(history))
        ['loss', 'learning rate']
    """
    from matplotlib.figure import Figure

    families: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for key, curve in history.items():
        if len(set(curve[1])) < 2:  # one number, which a table shows
            continue
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
            marker = "." if len(steps) < 30 else ""
            axes.plot(steps, values, marker=marker, linewidth=1.2, label=key.replace("_", " "))
        axes.set(xlabel="step", title=family.replace("_", " "))
        axes.grid(alpha=0.25)
        if len(members) <= 8:
            axes.legend(fontsize="small", frameon=False)
        for spine in axes.spines.values():
            spine.set_color(INK)
        axes.tick_params(color=INK)
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
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


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
