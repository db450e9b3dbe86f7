"""Things that are made once and kept: unpacked assets, converted weights, tokenised rows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lit_ft.running.files import commit


def cache_folder() -> Path:
    """``$LIT_FT_CACHE``, or ``lit_ft`` in the user's cache folder.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, LIT_FT_CACHE="scratch/cache"):
        ...     print(cache_folder())
        scratch/cache
    """
    chosen = os.environ.get("LIT_FT_CACHE")
    return Path(chosen).expanduser() if chosen else Path("~/.cache/lit_ft").expanduser()


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, filled by ``make(folder)`` when it is not there yet.

    Several processes may ask at once: one makes it, the others wait. A folder appears whole or not at all.

    Args:
        name: Path below the cache folder; everything that the content depends on must be part of it.
        make: Fills the empty folder that it is given.

    Example:
        >>> from unittest.mock import patch
        >>> def make(folder):
        ...     print("made once")
        ...     _ = (folder / "rows.txt").write_text("1 2 3")
        >>> with patch.dict(os.environ, LIT_FT_CACHE="cache"):
        ...     print(cached("rows/v1", make), cached("rows/v1", make))
        made once
        cache/rows/v1 cache/rows/v1
    """
    from filelock import FileLock

    target = cache_folder() / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                aside.chmod(0o755)
                make(aside)
                commit(aside, target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return target
