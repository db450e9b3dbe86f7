"""Code of classes: which files they depend on, whether those say the same as before, and what they import when used."""

import ast
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lit_ft.core.lazy import listed

PACKAGE = Path(__file__).parents[1]


def class_paths(node: Any) -> Iterator[str]:
    """Import paths of all classes in a resolved configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("class_path"), str):
            yield node["class_path"]
        for value in node.values():
            yield from class_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from class_paths(value)


@cache
def code_digest(paths: tuple[str, ...]) -> str:
    """Digest over the code of classes and of all that they import of this package; comments do not count.

    A class of an installed package counts by its name, one of the user's own by its file.
    """
    digest = hashlib.sha256()
    for file in sorted(closure_of(paths), key=lambda file: (file.name, str(file))):
        digest.update(f"{file.name}:{tree_digest(file)}\n".encode())
    return digest.hexdigest()


def closure_of(paths: tuple[str, ...]) -> set[Path]:
    """Files of classes, and of all that they import of this package."""
    return _closure([file for path in paths for file in files_of(*path.rpartition(".")[::2]) or _own_file(path)])


def late_imports(names: Iterable[str]) -> list[str]:
    """Modules of other packages that classes of this one import only when they are used.

    Args:
        names: Names of classes as YAML has them, short or with their module.
    """
    defined = [file for name in set(names) if (file := file_of(name.rpartition(".")[2])) is not None]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in _closure(defined)]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found: set[str] = set()
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = {*sys.stdlib_module_names, PACKAGE.name}
    return sorted(module for module in found if module.split(".")[0] not in ours)


def _closure(waiting: list[Path]) -> set[Path]:
    files: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += _imported(file)
    return files


@cache
def tree_digest(file: Path) -> str:
    """Digest of a file's syntax tree without docstrings and imports: a file may move, and what it uses may."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = None
        node.body = [line for line in body if not isinstance(line, (ast.Import, ast.ImportFrom))]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def file_of(name: str) -> Path | None:
    """The file of this package that defines a class, wherever it stands."""
    defined = re.compile(rf"^class {name}\b", re.MULTILINE)
    return next((file for file in sorted(PACKAGE.rglob("*.py")) if defined.search(file.read_text("utf-8"))), None)


def _own_file(path: str) -> list[Path]:
    """The file of a class that is neither of this package nor installed."""
    module = sys.modules.get(path.rpartition(".")[0])  # not imported: it is a name in plain data
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    file = Path(spec.origin)
    installed = "site-packages" in file.parts or file.is_relative_to(sysconfig.get_path("stdlib"))
    return [] if installed else [file]


def files_of(module: str, name: str = "") -> list[Path]:
    """Files of a module of this package; a re-exported name leads on to where it is defined."""
    if module.split(".")[0] != PACKAGE.name:
        return []
    base = PACKAGE.joinpath(*module.split(".")[1:])
    file = next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.exists()), None)
    if file is None:
        return []
    if (further := listed(file).get(name)) is not None:  # an index module
        return files_of(further, name)
    if file.name != "__init__.py":
        return [file]
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return files_of(node.module, name)
    return [file] if not name else []


def _imported(file: Path) -> list[Path]:
    found: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found += files_of(node.module, alias.name) or files_of(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found += files_of(alias.name)
    return found
