"""Index modules: names that are imported from their own modules when they are first used."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_ft.core.errors import nearest


def listed(file: str | Path) -> dict[str, str]:
    """The names that an index module imports for type checkers only, each with the module that defines it."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


def index(module: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of an index module.

    The module lists its names once, as imports under ``if TYPE_CHECKING``: editors and type checkers read them there,
    and here they are imported one by one when they are used.

    Args:
        module: ``__name__`` of the index module.
        file: Its ``__file__``.
    """
    names = listed(file)

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}{nearest(name, names)}")
        value = getattr(import_module(names[name]), name)
        setattr(sys.modules[module], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[module]), *names}), sorted(names)
