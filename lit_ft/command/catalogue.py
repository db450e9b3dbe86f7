"""What there is: every class by kind, read from the source without importing it, with papers, configs and verdicts."""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from lit_ft.command.cards import cards
from lit_ft.command.names import PACKAGE, known
from lit_ft.command.packaged import config_folder, copied
from lit_ft.core.batches import kind_name

KINDS = {
    "methods": "method",
    "callbacks": "callback",
    "data": "data module",
    "metrics": "metric",
    "merges": "merge",
}  # by index module
BASES = {
    "method": {"Method", "LightningModule", "pl.LightningModule"},
    "callback": {"Callback", "pl.Callback"},
    "data module": {"LightningDataModule", "pl.LightningDataModule"},
    "metric": {"Metric"},
    "merge": {"Merge"},
}
START, END = "<!-- gallery -->", "<!-- /gallery -->"


@dataclass
class Listed:
    """One class that can be named in YAML.

    Args:
        name: Its short name.
        kind: method, callback, data module or metric.
        summary: First line of its docstring.
        papers: Ids of the papers that it implements.
        batch_kind: What a batch is, for methods and data modules.
        configs: Files in ``configs/`` that use it.
    """

    name: str
    kind: str
    summary: str
    papers: tuple[str, ...] = ()
    batch_kind: str = ""
    configs: list[str] = field(default_factory=list)


def entries() -> list[Listed]:
    """Every public class of the package that can be named in YAML, by kind and name."""
    texts = {str(p.relative_to(config_folder())): p.read_text(encoding="utf-8") for p in config_files()}
    found = []
    for name, (index, module) in known().items():
        kind, node = KINDS.get(index.removeprefix(f"{PACKAGE.name}."), ""), _class(module, name)
        if node is None or not kind or _is_abstract(node) or not _descends(node, kind, module):
            continue
        batch_kind = _batch_kind(node, module)
        if kind in ("method", "data module") and not batch_kind:
            continue  # what several methods share
        papers = tuple(paper for paper, card in cards().items() if name in card.classes)
        used = [path for path, text in texts.items() if re.search(rf"\b{name}\b", re.sub(r"#.*", "", text))]
        summary = _plain((ast.get_docstring(node) or "").partition("\n\n")[0])
        found.append(Listed(name, kind, summary, papers, batch_kind, used))
    order = list(KINDS.values())
    return sorted(found, key=lambda entry: (order.index(entry.kind), entry.name))


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8"))


def _class(module: str, name: str) -> ast.ClassDef | None:
    return next((n for n in _tree(module).body if isinstance(n, ast.ClassDef) and n.name == name), None)


def config_files() -> list[Path]:
    """Every YAML file that runs, studies left out."""
    folder = config_folder()
    return [path for path in sorted(folder.rglob("*.yaml")) if path.relative_to(folder).parts[0] != "studies"]


def _plain(text: str) -> str:
    """A line of a docstring without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text.replace("\n", " ")).replace("``", "")


def _is_abstract(node: ast.ClassDef) -> bool:
    """Whether a method of the class is left to its subclasses."""
    return any(
        isinstance(line, ast.Raise) and "NotImplementedError" in ast.unparse(line)
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        for line in function.body
    )


def _descends(node: ast.ClassDef, kind: str, module: str) -> bool:
    """Whether a class is of a kind, by its bases in this file or in those that it is imported from."""
    if any(ast.unparse(base) in BASES[kind] for base in node.bases):
        return True
    return any(_descends(above, kind, further) for above, further in _bases(node, module))


def _bases(node: ast.ClassDef, module: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """The bases of a class that are in this package, and the modules in which they stand."""
    origin = {
        alias.name: line.module
        for line in _tree(module).body
        if isinstance(line, ast.ImportFrom) and line.module
        for alias in line.names
        if line.module.startswith(f"{PACKAGE.name}.")
    }
    for base in map(ast.unparse, node.bases):
        further = origin.get(base, module)
        above = _class(further, base)
        if above is not None:
            yield above, further


def _batch_kind(node: ast.ClassDef, module: str) -> str:
    """The kind of the batches of a class, by the ``TypedDict`` that it or a base names."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "batch":
            return kind_name(statement.value.id) if isinstance(statement.value, ast.Name) else ""
    return next(filter(None, (_batch_kind(above, further) for above, further in _bases(node, module))), "")


def results() -> dict[str, dict]:
    """Recorded results of studies by the id of their paper (or their name), the file name added."""
    found = {}
    for path in sorted((config_folder() / "studies" / "results").glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def gallery() -> str:
    """The table of the README: a row a paper, then what has no paper."""
    everything, recorded = entries(), results()
    rows = ["| paper | what is built | config | verdict |", "| --- | --- | --- | --- |"]
    for paper, card in cards().items():
        if not card.equation:
            continue
        built = ", ".join(f"`{entry.name}`" for entry in everything if entry.name in card.classes)
        link = f"[{card.configs[0]}](configs/{card.configs[0]})" if card.configs else ""
        verdicts = [_verdict(name, result) for name, result in recorded.items() if name in card.studies]
        rows.append(f"| {paper} {card.title} | {built} | {link} | {'; '.join(verdicts) or 'claim not run yet'} |")
    own = [entry for entry in everything if not entry.papers and entry.kind != "data module"]
    rows += ["", "Without a paper: " + ", ".join(f"`{entry.name}`" for entry in own) + "."]
    kinds: dict[str, list[Listed]] = {}
    for entry in everything:
        if entry.batch_kind:
            kinds.setdefault(entry.batch_kind, []).append(entry)
    rows += ["", "| a batch of | data modules | methods |", "| --- | --- | --- |"]
    for kind, members in sorted(kinds.items()):
        cells = [", ".join(f"`{m.name}`" for m in members if m.kind == k) for k in ("data module", "method")]
        rows.append(f"| {kind.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def _verdict(name: str, result: dict) -> str:
    from lit_ft.command.request import YamlFile
    from lit_ft.studies.staleness import draws_data, stale

    folder = config_folder()
    file = folder / "studies" / f"{name}.yaml"
    content = YamlFile.read("FILE", file).tree if file.exists() else {}
    moved = not content or stale(result, content, folder.parent)
    shown = [f"[{result['verdict']}](configs/studies/results/{name}.json): {result['headline']}"]
    shown += [f"{claim['verdict']}: {claim['headline']}" for claim in result["claims"] if not claim["main"]]
    shown += [] if draws_data(result, content) else ["its seeds drew no data"]
    return "; ".join(shown) + (" (stale)" if moved else "")


def renew_readme(readme: Path) -> bool:
    """Write the gallery between its marks; whether the file changed."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    new = f"{before}{START}\n{gallery()}\n{END}{after}"
    if new != text:
        readme.write_text(new, encoding="utf-8")
    return new != text


def methods_command(argv: Sequence[str]) -> int:
    """``lit-ft methods``: the listing, as text, JSON or the gallery of the README."""
    parser = argparse.ArgumentParser("lit-ft methods", description="What there is, by kind and by batch shape.")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument(
        "--gallery", nargs="?", const="-", metavar="README", help="the table of the README; write it there"
    )
    parser.add_argument("--copy", metavar="CONFIG", help="put a config that comes with lit-ft into this folder")
    options = parser.parse_args(list(argv))
    if options.copy:
        print(f"written: {copied(options.copy)}")
        return 0
    if options.gallery:
        if options.gallery == "-":
            print(gallery())
        else:
            renew_readme(Path(options.gallery))
        return 0
    found = entries()
    if options.json:
        json.dump([asdict(entry) for entry in found], sys.stdout, indent=1)
        print()
        return 0
    print("\n".join(_lines(found)))
    return 0


def _lines(found: list[Listed]) -> Iterator[str]:
    width = max(len(entry.name) for entry in found)
    for kind in KINDS.values():
        members = [entry for entry in found if entry.kind == kind]
        if not members:
            continue
        yield f"\n{kind}s"
        for entry in members:
            notes = [*entry.papers, *([f"batch: {entry.batch_kind}"] if entry.batch_kind else [])]
            tail = f"  [{', '.join(notes)}]" if notes else ""
            yield f"  {entry.name:{width}}  {entry.summary}{tail}"
            if entry.configs:
                yield f"  {'':{width}}    configs/{min(entry.configs, key=len)}"
