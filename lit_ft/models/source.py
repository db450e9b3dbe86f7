"""From ``network.path`` to a place that ``from_pretrained`` reads, with errors that a user can act on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.network import Network
from lit_ft.models.gguf import expanded
from lit_ft.sources.asset_table import ASSETS
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.places import absence, may_be_id, silent_hub


def locate(path: str) -> str:
    """The folder or hub id to load, for a folder, a hub id, a ``.gguf`` file or ``packaged:NAME``."""
    found = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    if found.suffix == ".gguf":
        if not found.is_file():
            raise ConfigError("network.path", path, f"a file that exists; nothing is at {found.absolute()}")
        return str(expanded(found))
    if found.exists():
        if found.is_dir() and not (found / "config.json").exists() and not is_adapter(found):
            raise ConfigError("network.path", path, "a model folder: config.json is missing in it")
        if found.is_file():
            raise ConfigError("network.path", path, "a folder, or a file .gguf")
        return str(found)
    if not may_be_id(path):
        raise ConfigError("network.path", path, f"a path that exists; {absence(path)}")
    if not _offline() and not _was_fetched(path):
        reason = silent_hub()
        if reason is not None:
            raise ConfigError("network.path", path, _choices(path, f"The hub cannot be asked: {reason}"))
    return path


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder has an exported adapter, and not a whole network."""
    place = Path(folder)
    return (place / "adapter_config.json").exists() and not (place / "config.json").exists()


def base_of(folder: str | Path) -> str:
    """Where the base of an exported adapter is: beside it, or where its configuration says.

    Args:
        folder: The folder of the adapter.

    Raises:
        ConfigError: Nothing is there.
    """
    place = Path(folder)
    named = json.loads((place / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if (place / "base" / "config.json").exists():
        return str(place / "base")
    if not named or (not Path(named).exists() and not may_be_id(named)):
        raise ConfigError("network.path", str(folder), f"an adapter whose base is there; it names {named!r}")
    return locate(named)


def _was_fetched(path: str) -> bool:
    """Whether a hub id is in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, "config.json"), str)


def _choices(path: str, reason: str) -> str:
    names = [PREFIX + name for name, asset in ASSETS.items() if asset.is_network]
    return (
        f"a folder ({absence(path)}), a .gguf file, a hub id that can be reached or was fetched"
        f" before, or one of {', '.join(names)}{nearest(path, ASSETS)}. {reason}"
    )


@contextmanager
def explained(spec: Network, path: str, what: str) -> Iterator[None]:
    """Turn the errors of ``from_pretrained`` into one that names a remedy.

    Args:
        spec: The description of the network.
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
            offline = "HF_HUB_OFFLINE is set, so only models fetched before are found. " if _offline() else ""
            raise ConfigError(
                "network.path", spec.path, _choices(path, f"{offline}The reason: {text[:200]}")
            ) from error
        if Path(path).is_dir():
            raise ConfigError(
                "network.path", spec.path, f"a folder whose {what} can be loaded: {text[:300]}"
            ) from error
        raise


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}
