"""What can be said of the whole package by reading it."""

import ast
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lit_ft.command import catalogue
from lit_ft.command.cards import cards
from lit_ft.command.names import known
from lit_ft.core.lazy import listed

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lit_ft"
FILES = sorted(PACKAGE.rglob("*.py"))
LISTED = {n for i in ("callbacks", "methods", "data", "merges") for n in listed(PACKAGE / f"{i}.py")}

DEFINED = {n.name for f in FILES for n in ast.parse(f.read_text()).body if isinstance(n, ast.ClassDef)}
STUDIES = {
    path.stem: yaml.safe_load(path.read_text()).get("paper", "")
    for path in (ROOT / "configs" / "studies").glob("*.yaml")
}

# what everything may stand on, in the order in which it stands on each other
GROUND = ("core", "running", "sources", "models", "tokens")
# the user's door by kind, and where the command stands: both know everything
INDICES = ("callbacks", "methods", "data", "metrics", "merges", "core/selection/__init__", "core/curvature")
ABOVE = ("command", "studies", "testing", "__main__")
# what a family may import of another one
NEIGHBOURS = {
    "classification": {"vision"},  # rows of numbers are images of one dimension
    "connectivity": {"vision"},  # two image classifiers, and what lies between them
    "flatness": {"curvature"},  # the edge of stability is an eigenvalue
    "merging": {"sparse"},  # the largest entries of a change, and saved selections
    "worlds": {"language"},  # generated rows are rows of a data module
}


def imports(path: Path) -> set[str]:
    """Names of lit_ft modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.startswith("lit_ft.")}


def public_classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (path, node)
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def allowed(part: str) -> set[str]:
    if part in GROUND:
        return {part, *GROUND[: GROUND.index(part)]}
    return {part, *GROUND, *NEIGHBOURS.get(part, set())}


def inside() -> list[Path]:
    """Every file that is neither a door nor above."""
    places = {path: path.relative_to(PACKAGE).with_suffix("").as_posix() for path in FILES}
    return [path for path, p in places.items() if p not in INDICES and p.split("/")[0] not in (*ABOVE, "__init__")]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in inside()
        for name in imports(path)
        if name.split(".")[1] not in allowed(path.relative_to(PACKAGE).parts[0])
    ]
    assert not wrong, wrong


def test_nothing_is_imported_by_its_name_in_a_string() -> None:
    """A name in a string would point upwards unseen."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value}"
        for path in inside()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("lit_ft.")
        and (PACKAGE.parent / (node.value.replace(".", "/") + ".py")).exists()
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("folder", ["configs", "tests"])
def test_configs_and_tests_stand_in_the_folders_of_the_families(folder: str) -> None:
    more = {"configs": {"studies"}, "tests": {"cli", "contracts", "foreign", "notebooks", "studies"}}[folder]
    present = {path.name for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert present - more <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}


def test_indices_resolve_lazily() -> None:
    doors = [f"lit_ft.{index.removesuffix('/__init__').replace('/', '.')}" for index in INDICES]
    code = f"import sys, {', '.join(doors)}; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    for door in map(importlib.import_module, doors):
        assert all(getattr(door, name) is not None for name in door.__all__)
        assert set(door.__all__) <= set(dir(door))
        with pytest.raises(AttributeError, match="no attribute 'Absent'"):
            door.Absent  # noqa: B018


def test_class_names_are_unique() -> None:
    """Two classes of one name make every config that says it fail."""
    import lightning.pytorch.callbacks
    import peft
    import torchmetrics

    names = Counter(node.name for _, node in public_classes())
    taken = {*vars(lightning.pytorch.callbacks), *vars(torchmetrics), *vars(peft)}
    assert not [name for name, times in names.items() if times > 1]
    assert not [name for name in names if name in taken]


def test_everything_public_has_a_docstring() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing, missing


def test_every_constructor_argument_is_documented() -> None:
    """``--model.help`` prints the docstring of the class that declares an argument: what it lacks has no help."""
    classes = {node.name: node for _, node in public_classes()}
    bases = {name: {ast.unparse(base) for base in node.bases} & classes.keys() for name, node in classes.items()}
    shown = set(LISTED)
    while more := {base for name in shown & classes.keys() for base in bases[name]} - shown:
        shown |= more
    missing = []
    for node in (classes[name] for name in sorted(shown & classes.keys())):
        init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        if init is None:
            continue
        text = (ast.get_docstring(node) or "") + (ast.get_docstring(init) or "")
        shared = {"self", "network", "optimizer", "schedule", "metrics"}
        arguments = [a.arg for a in (*init.args.args, *init.args.kwonlyargs) if a.arg not in shared]
        missing += [f"{node.name}.{argument}" for argument in arguments if f"{argument}:" not in text]
        if init.args.kwarg:
            assert handed_to_super(init), f"{node.name}: **{init.args.kwarg.arg} is more than handed on: no schema"
    assert not missing, missing


def handed_to_super(init: ast.FunctionDef) -> bool:
    """Whether ``**kwargs`` does nothing but go to ``super().__init__``, where the command finds its arguments."""
    assert init.args.kwarg
    name = init.args.kwarg.arg
    uses = [node for node in ast.walk(init) if isinstance(node, ast.Name) and node.id == name]
    calls = [n for n in ast.walk(init) if isinstance(n, ast.Call) and ast.unparse(n.func) == "super().__init__"]
    handed = [k.value for call in calls for k in call.keywords if k.arg is None]
    return len(uses) == 1 and uses == handed and not any(call.args for call in calls)  # nothing by position


def test_files_stay_small() -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long, long
    assert not [path for path in FILES if path.stem in ("utils", "misc", "helpers", "common")]


def test_importing_the_package_is_instant() -> None:
    heavy = ("torch", "lightning", "transformers", "yaml")
    code = f"import sys, lit_ft, lit_ft.command.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_heavy_packages_wait_until_they_are_used() -> None:
    """transformers, matplotlib and scipy come with torchmetrics; the others are ours to delay."""
    code = "import sys, lit_ft.command.run;print([m for m in ('datasets', 'peft', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def header(path: Path) -> dict[str, str]:
    """The comment at the top of a config, by key and in its order; what it is comes first and has no key."""
    first, *more = lines = list(itertools.takewhile(lambda line: line.startswith("# "), path.read_text().splitlines()))
    assert max(map(len, lines)) <= 120
    key = "What"
    found = {key: first[2:]}
    for line in more:
        if line.startswith("#   "):
            found[key] += line[3:]
        else:
            key, _, text = line[2:].partition(": ")
            assert key not in found
            found[key] = text
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_configs_say_what_they_are(path: Path) -> None:
    """In the format of CONTRIBUTING.md."""
    found, name = header(path), path.relative_to(ROOT / "configs").as_posix()
    study = name.startswith("studies/")
    order = "What Run" if study else "What( Paper)? Run Expect( Scale)?( Smoke)?"
    assert re.fullmatch(order, " ".join(found))
    assert found["Run"].startswith("lit-ft ")
    assert f" configs/{name}" in found["Run"]
    if study:
        return
    listing = [paper for paper, card in cards().items() if name in card.configs]
    assert re.findall(r"\b([A-E]\d+),", found.get("Paper", "")) == listing
    placeholders = set(re.findall(r"\b[A-Z]{3,}\b", found["Run"]))
    assert placeholders <= set(re.findall(r"\w+", found["What"])), "what a placeholder of the command stands for"
    assert "test/" not in found["Expect"] or "lit-ft test " in found["Run"], "lit-ft fit measures nothing on test rows"


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert listed == present | {"lit_ft.configs"}


def test_the_gallery_is_fresh() -> None:
    """Renew it with: lit-ft methods --gallery README.md"""
    text = (ROOT / "README.md").read_text()
    between = text.partition(catalogue.START)[2].partition(catalogue.END)[0].strip()
    assert between == catalogue.gallery().strip()


@pytest.mark.parametrize("paper", cards())
def test_a_card_says_what_is_there(paper: str) -> None:
    card, names = cards()[paper], known()
    assert card.title
    assert card.authors
    assert 1990 < card.year < 2100
    assert card.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv)
    if not card.equation:
        assert not card.classes + card.configs + card.studies, "a paper that is not built has four fields"
        return
    module, _, name = card.equation.rpartition(".")
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert not [name for name in card.classes if name not in names and name not in DEFINED]
    assert card.configs
    assert all((ROOT / "configs" / config).is_file() for config in card.configs)
    assert set(card.studies) == {study for study, of in STUDIES.items() if of == paper}


def test_every_study_has_a_card() -> None:
    assert {paper for paper in STUDIES.values() if paper} <= {paper for paper, card in cards().items() if card.equation}
