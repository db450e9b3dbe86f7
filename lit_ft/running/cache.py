"""Things that are made once and kept: unpacked assets, converted weights, tokenised rows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lit_ft.running.files import commit, digest_file, is_whole


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

    Several processes may ask at once: one makes it, the others wait. A folder appears whole or not at all; one whose
    files are no longer those that were written is made anew, which is said.

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
    if is_kept(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not is_kept(target):
            aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                aside.chmod(0o755)
                make(aside)
                if target.exists():
                    target.replace(aside.with_name(f"{aside.name}.old"))
                commit(aside, target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
                shutil.rmtree(aside.with_name(f"{aside.name}.old"), ignore_errors=True)
    return target


def is_kept(target: Path) -> bool:
    """Whether a folder of the cache is there, and its files are those that were written; else why is said.

    It is read again only if something in it was changed after its digest was written: weights may be large.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, LIT_FT_CACHE="kept"):
        ...     folder = cached("rows/v1", lambda folder: (folder / "rows.txt").touch())
        >>> is_kept(folder), is_kept(Path("kept/rows/v2"))
        (True, False)
    """
    if not target.exists():
        return False
    note = digest_file(target)
    if note.exists() and note.stat().st_mtime_ns > max(map(_changed, (target, *target.rglob("*")))):
        return True
    if not is_whole(target):
        from lightning.pytorch.utilities.rank_zero import rank_zero_warn

        rank_zero_warn(f"{target} is damaged (its digest does not match); it is made anew")
        return False
    return True


def _changed(path: Path) -> int:
    """When a file, or the list of files in a folder, was changed last; a file's own time could have been set back."""
    status = path.stat()
    return status.st_mtime_ns if path.is_dir() else max(status.st_mtime_ns, status.st_ctime_ns)
