"""What predictions are made of: model, data, settings and weights, so that others are not mixed with them."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_ft.running.files import sha256
from lit_ft.running.predictions import begin, file_of

_SETTINGS = ("precision", "limit_predict_batches")  # of the trainer
_READ_WHOLE = 2**28  # bytes; of larger files, size and time are looked at


def begin_predictions(to: Path, config: Mapping[str, Any], checkpoint: Path | None, texts: Sequence[str] = ()) -> bool:
    """Make a place ready for predictions; returns whether they are all there.

    Args:
        to: Folder or file that they are written to.
        config: The resolved configuration.
        checkpoint: Where the weights come from; None where the network is used as it was built.
        texts: What is predicted in place of rows of a table.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return file_of(to).exists()
    trainer = config.get("trainer") or {}
    made_of = {
        **{key: config.get(key) for key in ("model", "data", "seed_everything")},
        "trainer": {key: trainer.get(key) for key in _SETTINGS},
        "checkpoint": None if checkpoint is None else sha256(checkpoint),
        "files": {path: _state(Path(path)) for path in sorted(set(_paths([config.get("model"), config.get("data")])))},
    }
    if texts:
        made_of["texts"] = list(texts)
    whole = begin(to, made_of)
    if whole:
        print(f"nothing to do: {file_of(to)} has all predictions of this model on these data")
    return whole


def _paths(value: Any, key: str = "") -> Iterator[str]:
    """Files and folders that a configuration reads."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _paths(part, str(name))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _paths(part, key)
    elif isinstance(value, str) and (key == "path" or key.endswith(("_path", "members"))):
        place = os.path.expanduser(value)
        yield from [place] if os.path.exists(place) else glob(place)


def _state(path: Path) -> str:
    """What a file or a folder holds."""
    if path.is_file() and path.stat().st_size <= _READ_WHOLE:
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            state = file.stat()
            digest.update(f"{file.relative_to(path)}:{state.st_size}:{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
