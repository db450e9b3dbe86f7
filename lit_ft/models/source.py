"""From the words in ``network.path`` to a place that ``from_pretrained`` reads, and errors that a person can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.networks.network import Network
from lit_ft.data.sources.asset_table import ASSETS
from lit_ft.data.sources.assets import PREFIX, packaged
from lit_ft.data.sources.places import absent_place
from lit_ft.models.gguf import expanded

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(path: str) -> str:
    """A folder, or a hub id, for a folder, a hub id, a ``.gguf`` file or ``packaged:NAME``."""
    found = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    if found.suffix == ".gguf":
        if not found.is_file():
            raise ConfigError("network.path", path, f"a file that exists; nothing is at {found.absolute()}")
        return str(expanded(found))
    if found.exists():
        if found.is_dir() and not (found / "config.json").exists():
            raise ConfigError("network.path", path, "a model folder: config.json is missing in it")
        if found.is_file():
            raise ConfigError("network.path", path, "a folder, or a file .gguf")
        return str(found)
    absent = absent_place(path)
    if absent is None and not _HUB_ID.fullmatch(path):
        absent = f"nothing is at {found.absolute()}"
    if absent is not None and not _was_fetched(path):
        raise ConfigError("network.path", path, f"a path that exists, or a hub id; {absent}")
    return path


def _was_fetched(path: str) -> bool:
    """Whether a hub id is at hand, whatever folders have its name."""
    from huggingface_hub import try_to_load_from_cache

    return bool(_HUB_ID.fullmatch(path)) and isinstance(try_to_load_from_cache(path, "config.json"), str)


@contextmanager
def explained(spec: Network, path: str, what: str) -> Iterator[None]:
    """Turn the errors of ``from_pretrained`` into one that says what to do.

    Args:
        spec: The description that is followed.
        path: The folder or hub id that is loaded.
        what: What is loaded from there, for the error.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise ConfigError(
                "network.trust_remote_code",
                spec.trust_remote_code,
                f"true: {path} brings Python files of its own, which would run here with your rights. Read them first",
            ) from error
        if isinstance(error, OSError) and not Path(path).exists():
            offline = " HF_HUB_OFFLINE is set, so only models fetched before are found." if _offline() else ""
            names = [PREFIX + name for name, asset in ASSETS.items() if asset.is_network]
            raise ConfigError(
                "network.path",
                spec.path,
                f"a folder (nothing is at {Path(path).absolute()}), a .gguf file, a hub id that can be reached or was"
                f" fetched before, or one of {', '.join(names)}{nearest(path, ASSETS)}.{offline} The reason:"
                f" {text[:200]}",
            ) from error
        if Path(path).is_dir():
            raise ConfigError(
                "network.path", spec.path, f"a folder whose {what} can be loaded: {text[:300]}"
            ) from error
        raise


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}
