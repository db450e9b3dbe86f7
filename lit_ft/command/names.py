"""Short names of classes, and importing no more of the package than a command names.

The index modules (``lit_ft.callbacks`` and its like) say which names there are and where each is defined. A class is
known to the parser by its short name once its module is imported, so what a command mentions is imported first.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_ft.command.preload import quick_imports
from lit_ft.command.request import Request, YamlFile, read_flags
from lit_ft.core.lazy import listed

PACKAGE = Path(__file__).parents[1]
INDICES = ("callbacks", "methods", "data", "metrics", "merges", "core.selection")


@cache
def known() -> dict[str, tuple[str, str]]:
    """The index module and the defining module of every name that users have, by name."""
    found: dict[str, tuple[str, str]] = {}
    for index in INDICES:
        base = PACKAGE.joinpath(*index.split("."))
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        found |= {name: (f"{PACKAGE.name}.{index}", module) for name, module in listed(file).items()}
    return found


def public(node: Any) -> Any:
    """A configuration whose classes of this package stand by the names that are promised, not by their files."""
    if isinstance(node, dict):
        return {key: _public_path(v) if key == "class_path" else public(v) for key, v in node.items()}
    return [public(value) for value in node] if isinstance(node, list) else node


def _public_path(path: Any) -> Any:
    module, _, name = str(path).rpartition(".")
    index, defined = known().get(name, ("", ""))
    return f"{index}.{name}" if module and module == defined else path


def import_named(request: Request) -> None:
    """Import the user's own modules, and the classes that the arguments and their files mention by a known name."""
    import_own(request.imports)
    if any(re.match(r"-h$|--([\w.]+\.)?help\b", argument) for argument in request.args):
        return import_all()
    given = [*(("", argument) for argument in request.args), *((file.path, file.text) for file in request.configs)]
    texts = _texts(given, set(request.paths))
    words = {word for text in texts for word in re.findall(r"\b[A-Z]\w*", text)}
    return _import(known()[word][1] for word in sorted(words & known().keys()))


def named_by_user(request: Request) -> list[str]:
    """What stands with a dot in the arguments, or in files that are no stored configuration, and modules to import."""
    arguments = [part for key, _, written in read_flags(request.args) if not key for part in written]
    files = [(file.path, file.text) for file in request.configs if not file.is_stored]
    texts = _texts([*(("", argument) for argument in arguments), *files], set(request.paths))
    dotted = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.\w+)+(?![\w/])")
    return [*request.imports, *(word for text in texts for word in dotted.findall(text))]


def import_own(modules: Iterable[str]) -> None:
    """Import modules of the user, which may stand in the working folder."""
    for module in modules:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        import_module(module)


def import_all() -> None:
    """Import every class that has a short name."""
    _import(module for _, module in known().values())


def _import(modules: Iterable[str]) -> None:
    missing = [module for module in modules if module not in sys.modules]
    with quick_imports():
        for module in missing:
            import_module(module)


def _texts(texts: Iterable[tuple[str, str]], seen: set[str]) -> Iterator[str]:
    """The texts, each given with its file, and those of the files of YAML that they name, which must be readable."""
    for place, text in texts:
        yield text
        said = re.sub(r"(^|\s)#.*", "", text, flags=re.MULTILINE)  # files that comments name are not read
        words = [word for word in re.findall(r"[^\s'\"=,\[\]{}]+", said) if word.endswith((".yaml", ".yml"))]
        files = [file for word in words for file in (Path(word), Path(place).parent / word) if file.is_file()]
        new = [str(file) for file in dict.fromkeys(files) if str(file) not in seen]
        seen.update(new)
        yield from _texts(((file, YamlFile.read(file, file).text) for file in new), seen)
