"""The report of a run as a page: what was done, what came of it, how it went, and how to go on."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from lit_ft.core.yaml_text import read_yaml
from lit_ft.running.duration import duration

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--muted:#5c6470;--line:#d8dde3;--soft:#f5f7f9;--mark:#0b62c4}
@media(prefers-color-scheme:dark){
:root{--ink:#e6e9ed;--paper:#14171b;--muted:#9aa3ae;--line:#343a42;--soft:#1e2329;--mark:#6db3ff}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;margin-bottom:.2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid var(--line)}
.lead{font-size:1.05rem;max-width:46rem}.muted{color:var(--muted)}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}th{font-weight:600}
td.text{overflow-wrap:anywhere;min-width:6rem}td.number{font-variant-numeric:tabular-nums}td table{margin:0}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:1rem}
figure{margin:0}figure svg{width:100%;height:auto}figure svg text{fill:var(--ink)!important}
pre,code{background:var(--soft);font-size:13px}pre{padding:.8rem;overflow:auto}code{padding:.1rem .3rem}
summary{cursor:pointer;margin-top:.6rem}summary:focus-visible{outline:2px solid var(--mark)}
"""
STAGES = {"train": "training", "val": "validation", "test": "test"}
_NAMES = {
    "wall_seconds": "time", "cpu_seconds": "CPU time", "peak_memory_bytes": "peak of memory", "epochs": "epochs",
    "samples_per_second": "rows a second", "tokens_per_second": "tokens a second", "steps": "optimizer steps",
    "number": "number of this start",
    "trainable_parameters": "of these trained",
}  # fmt: skip


def document(title: str, body: str) -> str:
    r"""A whole page that needs nothing else: no script, no other file.

    Example:
        >>> document("a & b", "<h1>a</h1>")[-51:]
        '</head><body><main><h1>a</h1></main></body></html>\n'
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def page(report: Mapping[str, Any], drawings: Mapping[str, str], config: str) -> str:
    """The page of a run.

    Args:
        report: What ``report.json`` holds.
        drawings: Inline SVG by name.
        config: Text of the resolved configuration.

    Example:
        >>> html = page({"name": "run", "metrics": {"val/loss": 2.25}}, {"loss": "<svg></svg>"}, config="seed: 0")
        >>> [part in html for part in ("<title>run</title>", "validation", 'aria-label="loss"', "<pre>seed: 0</pre>")]
        [True, True, True, True]
    """
    name = str(report.get("name", "run"))
    parts = [f"<h1>{escape(name)}</h1>", f'<p class="lead">{escape(sentence(report, config))}</p>']
    if report.get("metrics"):
        parts.append(f"<h2>Results</h2>{results(report['metrics'])}")
    if drawings:
        parts.append(f'<h2>Curves</h2><div class="plots">{"".join(map(figure, drawings, drawings.values()))}</div>')
    for callback, summary in report.get("callbacks", {}).items():
        if summary:
            parts.append(f"<h2>{escape(callback)}</h2>{table(summary)}")
    if report.get("adapter"):
        parts.append(f"<h2>Modules that the adapter's names mean</h2>{table(report['adapter'])}")
    parts.append(f"<h2>Run</h2>{table(facts(report))}")
    if commands := going_on(report):
        parts.append(f"<h2>How to go on</h2><pre>{escape(commands)}</pre>")
    environment = {**report.get("versions", {}), **report.get("machine", {}), "git": report.get("git")}
    parts.append(f"<details><summary>Environment</summary>{table(environment)}</details>")
    parts.append(f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>")
    return document(name, "".join(parts))


def sentence(report: Mapping[str, Any], config: str) -> str:
    r"""What was done, in a sentence or two.

    Example:
        >>> report = {"status": "finished", "steps": 1500, "wall_seconds": 66.6}
        >>> text = "model: {class_path: lit_ft.methods.TextClassifier}\ndata: {class_path: lit_ft.data.LabelledText}"
        >>> sentence(report, text)
        'TextClassifier on LabelledText: 1,500 steps in 1 min 6 s, finished.'
    """
    try:
        read = read_yaml(config)
    except yaml.YAMLError:  # a text of somebody else's, shown as it is
        read = None
    own = read if isinstance(read, Mapping) else {}
    words = [_class(own.get("model"))]
    if data := _class(own.get("data")):
        path = (own["data"].get("init_args") or {}).get("path")
        words.append(f"on {data}" + (f" ({path})" if isinstance(path, str) else ""))
    callbacks = (own.get("trainer") or {}).get("callbacks")
    names = [found for one in (callbacks if isinstance(callbacks, list) else []) if (found := _class(one))]
    if names:
        words.append(f"with {', '.join(dict.fromkeys(names))}")
    done = [f"{report['steps']:,} steps"] if "steps" in report else []
    done += [f"in {duration(report['wall_seconds'])}"] if report.get("wall_seconds") else []
    end = " ".join(done) + (f", {report['status']}" if report.get("status") else "")
    said = f"{' '.join(filter(None, words))}: {end}." if any(words) else f"{end}."
    whole, trained = report.get("parameters"), report.get("trainable_parameters")
    if whole and trained is not None:
        share = "All" if whole == trained else f"{trained:,} ({trained / whole:.2%})"
        said += f" {share} of the {count(whole)} parameters were trained."
    return said


def _class(node: Any) -> str:
    return str(node.get("class_path", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def count(number: float) -> str:
    """A large number in words.

    Example:
        >>> count(22_713_986), count(1_300_000_000), count(147)
        ('22.7 million', '1.3 billion', '147')
    """
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def readable(key: str) -> str:
    """A logged key as a person would say it; a formula stays as it is written.

    Example:
        >>> readable("lr-AdamW/pg1"), readable("val/calibration_error"), readable("feature_probe/accuracy")
        ('learning rate, AdamW, group 1', 'validation calibration error', 'feature probe, accuracy')
    """
    if key.startswith("lr-"):
        name, _, group = key.removeprefix("lr-").partition("/pg")
        return f"learning rate, {name}" + (f", group {group}" if group else "")
    stage, _, quantity = key.partition("/")
    if stage in STAGES and quantity:
        return f"{STAGES[stage]} {readable(quantity)}"
    return key.replace("_", " ").replace("/", ", ") if re.fullmatch(r"[\w/@.-]+", key) else key


def results(metrics: Mapping[str, float]) -> str:
    """The last values: what is of training, validation and test side by side, then the rest.

    Example:
        >>> "<th>validation</th><th>test</th>" in results({"val/loss": 2.5, "test/loss": 2.25})
        True
    """
    staged: dict[str, dict[str, float]] = {}
    rest: dict[str, float] = {}
    for key, value in metrics.items():
        stage, _, quantity = key.partition("/")
        if stage in STAGES and quantity:
            staged.setdefault(quantity, {})[stage] = value
        else:
            rest[key] = value
    stages = [stage for stage in STAGES if any(stage in own for own in staged.values())]
    order = sorted(staged, key=lambda quantity: (quantity != "loss", quantity))
    rows = {readable(q): {STAGES[s]: _text(staged[q][s]) if s in staged[q] else "" for s in stages} for q in order}
    return (grid(rows) if rows else "") + (table(rest) if rest else "")


def facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was, with units.

    Example:
        >>> facts({"name": "run", "wall_seconds": 66.6, "peak_memory_bytes": 1_366_024_192, "steps": 1500})
        {'time': '1 min 6 s', 'peak of memory': '1.37 GB', 'optimizer steps': 1500}
    """
    found: dict[str, Any] = {}
    for key, value in report.items():
        if isinstance(value, Mapping) or value is None or key == "name" or (key == "tokens_per_second" and not value):
            continue
        if key.endswith("_seconds"):
            value = duration(value)
        elif key.endswith("_bytes"):
            value = f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
        elif key.endswith("_per_second"):
            value = f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
        found[_NAMES.get(key, readable(key))] = value
    return found


def going_on(report: Mapping[str, Any]) -> str:
    """The commands that go on from here; none for a run that no command made.

    Example:
        >>> print(going_on({"command": "lit-ft fit -c configs/demo.yaml", "status": "finished"}))
        lit-ft test -c configs/demo.yaml --ckpt_path last
        >>> print(going_on({"command": "lit-ft fit -c configs/demo.yaml", "status": "interrupted"}))
        lit-ft fit -c configs/demo.yaml --ckpt_path last
    """
    command, name = str(report.get("command", "")), "lit-ft fit "
    if not command.startswith(name):
        return ""
    rest = command.removeprefix(name).partition(" --ckpt_path")[0]
    stage = "test" if report.get("status") == "finished" else "fit"
    return f"lit-ft {stage} {rest} --ckpt_path last"


def figure(name: str, drawing: str) -> str:
    """A drawing with a text for those who do not see it.

    Example:
        >>> figure("loss", "<svg></svg>")
        '<figure><svg role="img" aria-label="loss"></svg></figure>'
    """
    label = f'<svg role="img" aria-label="{escape(name)}"'
    return f"<figure>{drawing.replace('<svg', label, 1)}</figure>"


def _text(value: Any) -> str:
    """A value as text: numbers with five digits, of a long list only both ends."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        parts = [_text(item) for item in value]
        return ", ".join(parts if len(parts) <= 12 else [*parts[:5], "\N{HORIZONTAL ELLIPSIS}", *parts[-5:]])
    return str(value)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"<td>{_rows(value)}</td>"
    kind = "number" if isinstance(value, (int, float)) else "text"
    return f'<td class="{kind}">{escape(_text(value))}</td>'


def _rows(rows: Mapping[str, Any]) -> str:
    inner = "".join(f"<tr><td>{escape(readable(str(k)))}</td>{_cell(v)}</tr>" for k, v in rows.items())
    return f"<table>{inner}</table>"


def table(rows: Mapping[str, Any]) -> str:
    """A mapping as an HTML table of two columns; inner mappings are inner tables.

    Example:
        >>> table({"steps": 1000})
        '<div class="wide"><table><tr><td>steps</td><td class="number">1,000</td></tr></table></div>'
    """
    return f'<div class="wide">{_rows(rows)}</div>'


def grid(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Named rows with the same columns, as an HTML table with a header.

    Example:
        >>> grid({"SAM": {"accuracy": "0.9"}})[18:]
        '<table><tr><td></td><th>accuracy</th></tr><tr><td>SAM</td><td class="number">0.9</td></tr></table></div>'
    """
    columns: Sequence[str] = list(next(iter(rows.values()), {}))
    head = "<td></td>" + "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="number">{escape(own[column])}</td>' for column in columns)
        + "</tr>"
        for name, own in rows.items()
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
