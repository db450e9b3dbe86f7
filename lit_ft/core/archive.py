"""Files of ``torch.save``: whether one is whole, and which classes it holds, without unpickling it."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from lit_ft.core.errors import ConfigError


def verify(path: Path) -> None:
    """Read a file that was just written, and compare each part with its checksum; nothing is unpickled.

    Files of another format than that of ``torch.save``, which a plug-in of the trainer may write, are not read.

    Raises:
        OSError: The file is empty, cut off, or a part is not what was written.

    Example:
        >>> torch.save({"weight": torch.ones(2), "criterion": torch.nn.MSELoss()}, "whole.ckpt")
        >>> verify(Path("whole.ckpt"))
        >>> _ = Path("cut.ckpt").write_bytes(Path("whole.ckpt").read_bytes()[:-9])
        >>> verify(Path("cut.ckpt"))
        Traceback (most recent call last):
            ...
        OSError: cut.ckpt is not what was written: its end is missing
    """
    with path.open("rb") as file:
        start = file.read(4)
    wrong = "" if start else "it is empty"
    if start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            wrong = "its end is missing"
        elif torch.serialization.get_crc32_options():
            wrong = _damage(path)
    if wrong:
        raise OSError(f"{path} is not what was written: {wrong}")


def _damage(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)
    return f"{damaged} in it is damaged" if damaged else ""


def classes_in(path: Path) -> list[str]:
    """The classes and functions in a file that ``weights_only=True`` refuses, by their full names, own ones first.

    Those that were named to ``torch.serialization.add_safe_globals`` are not among them.

    Example:
        >>> torch.save({"weight": torch.ones(2), "criterion": torch.nn.MSELoss()}, "own.ckpt")
        >>> classes_in(Path("own.ckpt"))
        ['torch.nn.modules.loss.MSELoss']
    """
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError):  # no file of torch.save, or a damaged one: that is for its reader to say
        return []
    return sorted(found, key=lambda name: (name.split(".")[0] in ("builtins", "numpy", "torch"), name))


def shown(classes: list[str]) -> str:
    """Some names in a line.

    Example:
        >>> shown(["a.A", "a.B", "a.C", "a.D", "a.E"])
        'a.A, a.B, a.C and 2 more'
    """
    return ", ".join(classes[:3]) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")


def refuse_classes(argument: str, path: Path) -> None:
    """Refuse a file that holds more than tensors and plain data, with the ways to read it all the same.

    Args:
        argument: Name of the argument that named the file.
        path: The file.

    Example:
        >>> torch.save({"criterion": torch.nn.MSELoss()}, "own.ckpt")
        >>> refuse_classes("--ckpt_path", Path("own.ckpt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --ckpt_path: given 'own.ckpt with torch.nn.modules.loss.MSELoss'; allowed: ...
    """
    if path.is_file() and (found := classes_in(path)):
        raise ConfigError(
            argument,
            f"{path} with {shown(found)}",
            "tensors and plain data; classes, if the module's own file names them to "
            "torch.serialization.add_safe_globals, or from Python with trainer.fit(..., weights_only=False)",
        )


def read(argument: str, path: Path, **options: Any) -> Any:
    """The content of a checkpoint of tensors and plain data.

    Args:
        argument: Name of the argument that named the file.
        path: The file.
        options: Further arguments of ``torch.load``.

    Raises:
        ConfigError: It holds classes; see :func:`refuse_classes`.

    Example:
        >>> torch.save({"weight": torch.ones(2)}, "plain.ckpt")
        >>> read("checkpoint", Path("plain.ckpt"))
        {'weight': tensor([1., 1.])}
    """
    refuse_classes(argument, path)
    return torch.load(path, weights_only=True, **options)
