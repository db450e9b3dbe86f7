"""What a path that leads nowhere was meant to be: a place on this machine, or the id of something on a hub."""

from __future__ import annotations

from pathlib import Path

from lit_ft.core.errors import nearest


def absent_place(path: str) -> str | None:
    """Where nothing is, with the nearest name there is; None where a hub may have what is meant.

    ``user/name`` is an id, unless a folder ``user`` is here: then ``name`` is looked for in it alone, and a slip does
    not wait for a hub. What is meant to be fetched by that id is fetched from another working folder.

    Args:
        path: Leads to no file and no folder.
    """
    place = Path(path).expanduser()
    is_place = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1 or "\\" in path
    if not is_place and not ("/" in path and place.parent.is_dir()):
        return None
    known = next(folder for folder in place.absolute().parents if folder.is_dir())
    missing = place.absolute().relative_to(known).parts[0]
    names = [entry.name for entry in known.iterdir()] if known != known.parent else []
    return f"nothing is at {place.absolute()}{nearest(missing, names)}"
