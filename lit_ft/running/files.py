"""Files that are whole or absent: written aside, synced, verified, renamed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_ft.core.errors import ConfigError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, or over all files of a folder with their names.

    Example:
        >>> _ = Path("note").write_text("abc")
        >>> sha256(Path("note"))[:16]
        'ba7816bf8f01cfea'
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{part.relative_to(path)}:{sha256(part)}\n".encode())
    return digest.hexdigest()


def _sync(*paths: Path) -> None:
    """Flush to disk; of a folder only its list of names, as other processes may remove files in it meanwhile."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never a part.

    Example:
        >>> write_text(Path("run/note"), "old")
        >>> write_text(Path("run/note"), "new")
        >>> [(path.name, path.read_text()) for path in Path("run").iterdir()]
        [('note', 'new')]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with removed_on_failure(aside):
        aside.write_text(text, encoding="utf-8")
        _sync(aside)
        aside.replace(path)
    _sync(path.parent)


@contextmanager
def removed_on_failure(aside: Path) -> Iterator[None]:
    """Remove what was written of a file when the disk is full; the error is of the file.

    Example:
        >>> with removed_on_failure(Path("half")):
        ...     _ = Path("half").write_text("ha")
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
            ...
        OSError: [Errno 28] No space left on device: 'half'
        >>> Path("half").exists()
        False
    """
    try:
        yield
    except BaseException as error:
        if aside.is_file():
            aside.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(aside)
        raise


def digest_file(path: Path) -> Path:
    """The file that holds the digest of ``path``.

    Example:
        >>> print(digest_file(Path("run/last.ckpt")))
        run/last.ckpt.sha256
    """
    return path.with_name(path.name + ".sha256")


def commit(aside: Path, path: Path) -> None:
    """Make the finished file or folder ``aside`` durable under its name ``path``, with its digest beside it.

    See also: :func:`is_whole`, which checks it.

    Example:
        >>> aside = Path("last.tmp")
        >>> _ = aside.write_text("weights")
        >>> commit(aside, Path("last.ckpt"))
        >>> sorted(path.name for path in Path().iterdir())
        ['last.ckpt', 'last.ckpt.sha256']
    """
    _sync(aside, *(aside.rglob("*") if aside.is_dir() else ()))
    note, digest = digest_file(path), sha256(aside)
    before = f"{note.read_text().strip()}\n" if path.exists() and note.exists() else ""
    write_text(note, f"{before}{digest}")  # of the old file and of the new one, whichever is there after a kill
    aside.replace(path)
    _sync(path.parent)
    if before:
        write_text(note, digest)


def undamaged(argument: str, path: Path) -> Path:
    """The path, or an error when its bytes are not those of the digest beside it; a file without one is taken as it is.

    Example:
        >>> _ = Path("aside").write_text("weights")
        >>> commit(Path("aside"), Path("best.ckpt"))
        >>> _ = Path("best.ckpt").write_text("weighty")
        >>> undamaged("--ckpt_path", Path("best.ckpt"))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --ckpt_path: given 'best.ckpt'; allowed: a whole file; ...
    """
    if digest_file(path).exists() and not is_whole(path):
        raise ConfigError(argument, str(path), "a whole file; this one is damaged (its digest does not match)")
    return path


def is_whole(path: Path) -> bool:
    """Whether ``path`` exists and its bytes are those that were written.

    Example:
        >>> _ = Path("aside").write_text("weights")
        >>> commit(Path("aside"), Path("last.ckpt"))
        >>> is_whole(Path("last.ckpt"))
        True
        >>> _ = Path("last.ckpt").write_text("weigh")
        >>> is_whole(Path("last.ckpt"))
        False
    """
    note = digest_file(path)
    return path.exists() and note.exists() and sha256(path) in note.read_text().split()
