"""A merged network as a folder that ``from_pretrained`` loads: written aside, tensor by tensor, then renamed."""

import json
import math
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.merging.expert import INDEX

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf)(\.index\.json)?\Z")


def bytes_of(size: str) -> int:
    """A number of bytes, from a text such as ``5GB`` or ``500MB``.

    Example:
        >>> bytes_of("1.5GB")
        1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B", size.strip().upper())
    number = 0 if found is None else int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))
    if number < 1:
        raise ConfigError("shard_size", size, "a size such as 500MB or 5GB")
    return number


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Refuse to write more than there is room for."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError("--to", f"{folder} with {free / 1e9:.1f} GB free", f"a disk with {needed / 1e9:.1f} GB free")


def write_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
    shard_size: int,
) -> list[str]:
    """Write tensors one after the other into ``model.safetensors``, or into parts with their index.

    Args:
        folder: Where.
        shapes: The shape of each tensor.
        dtypes: The type of each.
        read: Computes one; it is rounded here, once.
        shard_size: Most bytes of a part.

    Returns:
        The names of the files.

    Raises:
        ConfigError: A number does not fit its type.

    Example:
        >>> tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
        >>> shapes, types = {"a": (2,), "b": (3,)}, dict.fromkeys("ab", torch.bfloat16)
        >>> write_weights(Path(), shapes, types, tensors.__getitem__, shard_size=1000)
        ['model.safetensors']
        >>> from safetensors.torch import load_file
        >>> load_file("model.safetensors")
        {'a': tensor([1., 1.], dtype=torch.bfloat16), 'b': tensor([0., 0., 0.], dtype=torch.bfloat16)}
    """
    sizes = {name: math.prod(shapes[name]) * dtypes[name].itemsize for name in shapes}
    parts: list[list[str]] = [[]]
    for name in shapes:
        if parts[-1] and sum(sizes[n] for n in parts[-1]) + sizes[name] > shard_size:
            parts.append([])
        parts[-1].append(name)
    many = len(parts) > 1
    files = [
        f"model-{i:05d}-of-{len(parts):05d}.safetensors" if many else "model.safetensors" for i in _from_one(parts)
    ]
    for file, names in zip(files, parts, strict=True):
        _write_part(folder / file, {name: (shapes[name], dtypes[name], sizes[name]) for name in names}, read)
    if many:
        index = {name: file for file, names in zip(files, parts, strict=True) for name in names}
        text = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    return [*files, *([INDEX] if many else [])]


def _from_one(parts: Iterable[object]) -> list[int]:
    return [number for number, _ in enumerate(parts, 1)]


def _write_part(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype, int]], read: Callable[[str], Tensor]
) -> None:
    header, start = {}, 0
    for name, (shape, dtype, size) in tensors.items():
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (_, dtype, _) in tensors.items():
            tensor = read(name)
            rounded = tensor.to(dtype).contiguous()
            if dtype.is_floating_point and dtype.itemsize < 4 and rounded.isinf().any():
                raise ConfigError("dtype", f"{str(dtype).removeprefix('torch.')}, too small for {name}", "a wider type")
            file.write(rounded.flatten().view(torch.uint8).numpy().data)


def copy_beside(sources: list[Path], base: Path | None, target: Path) -> list[str]:
    """Copy the files beside the weights: tokenizer, generation settings, processors, pooling.

    Where all inputs have the same file it is theirs, whatever the base has; where they disagree it is that of the
    first. A file that no input has is not taken from the base, unless the inputs have no file of its kind.

    Args:
        sources: Folders of the inputs, the one first whose files count.
        base: Folder of the base.
        target: The new folder.

    Returns:
        What a person should know, in sentences.
    """
    notes = []
    found = {file: [folder for folder in sources if (folder / file).is_file()] for file in _files(sources)}
    for file, having in found.items():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(having[0] / file, target / file)
        texts = {(folder / file).read_bytes() for folder in having}
        if file.name != "config.json" and len(texts) > 1:
            notes.append(f"{file}: that of {having[0].name}, as the inputs have different ones")
    if base is not None and not any("token" in str(file) for file in found):
        for file in (
            file for file in _files([base]) if "token" in file.name or file.name in ("vocab.txt", "merges.txt")
        ):
            shutil.copyfile(base / file, target / file)
            notes.append(f"{file}: that of the base, as no input has a tokenizer")
    return notes


def _files(folders: Iterable[Path]) -> list[Path]:
    """The files of some folders that hold no weights and no account of where these come from, by relative path."""
    return list(
        dict.fromkeys(
            path.relative_to(folder)
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not _WEIGHTS.match(path.name) and path.suffix in _KINDS
            and path.name.lower() not in ("readme.md", "recipe.yaml", "merge.json", "merge.html")
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    )  # fmt: skip


_KINDS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm")
