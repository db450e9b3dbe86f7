"""Files that are whole or absent: written aside, synced, verified, renamed."""

import hashlib
import os
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, or over all files of a folder with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{part.relative_to(path)}:{sha256(part)}\n".encode())
    return digest.hexdigest()


def _sync(*paths: Path) -> None:
    """Of a folder its list of names alone: what others write into it may be gone again."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(text, encoding="utf-8")
    _sync(aside)
    aside.replace(path)
    _sync(path.parent)


def digest_file(path: Path) -> Path:
    """Where the digest of ``path`` is kept."""
    return path.with_name(path.name + ".sha256")


def commit(aside: Path, path: Path) -> None:
    """Make the finished file or folder ``aside`` durable under its name ``path``, with its digest beside it."""
    _sync(aside, *(aside.rglob("*") if aside.is_dir() else ()))
    write_text(digest_file(path), sha256(aside))
    aside.replace(path)
    _sync(path.parent)


def is_whole(path: Path) -> bool:
    """Whether ``path`` is there and its bytes are those that were written."""
    note = digest_file(path)
    return path.exists() and note.exists() and note.read_text().strip() == sha256(path)
