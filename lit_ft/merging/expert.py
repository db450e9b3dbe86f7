"""Networks as named tensors that are read one by one."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.weights import tensors_in

INDEX = "model.safetensors.index.json"
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class Expert:
    """The tensors of one network, by name; this one holds them in memory.

    Args:
        tensors: The tensors.
        label: What it is called in messages and reports.
        config: Its ``config.json``; empty where there is none.
        folder: Where the files beside its weights are; None where there are none.

    See also: :func:`expert`, which reads a folder or a file.

    Example:
        >>> Expert({"w": torch.ones(2)}, "ones").shapes
        {'w': (2,)}
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        label: str,
        config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._tensors = tensors
        self.label, self.config, self.folder = label, dict(config or {}), folder
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored."""
        return self._tensors[name].detach()

    def fingerprint(self) -> str:
        """A digest of names, shapes, types and a sample of each tensor's entries.

        Example:
            >>> one, other = (Expert({"w": torch.full((2,), value)}, "") for value in (1.0, 2.0))
            >>> one.fingerprint() == other.fingerprint()
            False
        """
        digest = hashlib.sha256()
        for name in sorted(self.shapes):
            flat = self.read(name).flatten()
            sample = flat[:: max(1, flat.numel() // 256)].contiguous()
            digest.update(f"{name} {self.shapes[name]} {self.dtypes[name]}".encode())
            digest.update(sample.view(torch.uint8).cpu().numpy().tobytes() if sample.numel() else b"")
        return digest.hexdigest()[:32]


class StoredExpert(Expert):
    """The tensors in ``.safetensors`` files, of which only what is read is in memory.

    Args:
        files: The file of each tensor, by its name.
        label: What it is called.
        config: Its ``config.json``.
        folder: Where it is.
    """

    def __init__(self, files: Mapping[str, Path], label: str, config: Mapping[str, Any], folder: Path | None) -> None:
        super().__init__({}, label, config, folder)
        self._files = files
        for path in dict.fromkeys(files.values()):
            with _opened(path, label) as opened:
                stored = set(opened.keys())
                for name in (name for name, of in files.items() if of == path):
                    if name not in stored:
                        raise ConfigError("inputs", label, f"a whole network; {name} is not in {path.name}")
                    part = opened.get_slice(name)
                    kind = part.get_dtype()
                    if kind not in _TYPES:
                        raise ConfigError(
                            "inputs", f"{label} with {name} of type {kind}", "weights that are not packed"
                        )
                    self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), _TYPES[kind]

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored."""
        with _opened(self._files[name], self.label) as opened:
            return opened.get_tensor(name)


def _opened(path: Path, label: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError("inputs", label, f"whole files; {path.name}: {error}") from error


def expert(source: str | Path, label: str | None = None) -> Expert:
    """The network in a folder of ``transformers``, a ``.safetensors`` file or a checkpoint.

    In a folder the index decides which files are read; without one there must be one ``.safetensors`` file, or else one
    ``pytorch_model.bin``. Of a checkpoint of Lightning the tensors of its ``network`` are taken, by their names in it.

    Args:
        source: The folder or file.
        label: What it is called; the default is its name.

    Raises:
        ConfigError: It holds no such thing, something is missing in it, or its weights are packed in few bits.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"w": torch.ones(1, 2)}, "model.safetensors")
        >>> found = expert("model.safetensors")
        >>> found.shapes, found.read("w")
        ({'w': (1, 2)}, tensor([[1., 1.]]))
    """
    path = existing("inputs", source)
    label = label or path.name
    if path.is_file():
        if path.suffix == ".safetensors":
            return StoredExpert({name: path for name in names_in(path, label)}, label, {}, None)
        tensors = tensors_in("inputs", path)
        inner = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        return Expert(inner or tensors, label)
    config = _json(path / "config.json")
    if "quantization_config" in config:
        raise ConfigError("inputs", f"{label}, which is quantized", "weights that are not packed; expand them first")
    index, files = _json(path / INDEX).get("weight_map"), sorted(path.glob("*.safetensors"))
    if index is not None:
        absent = next((file for file in index.values() if not (path / file).is_file()), None)
        if absent:
            raise ConfigError("inputs", label, f"a whole folder; {absent} is missing in it")
        return StoredExpert({name: path / file for name, file in index.items()}, label, config, path)
    if len(files) == 1:
        return StoredExpert({name: files[0] for name in names_in(files[0], label)}, label, config, path)
    old = path / "pytorch_model.bin"
    if not files and old.is_file():
        return Expert(tensors_in("inputs", old), label, config, path)
    found = f"{len(files)} .safetensors files without {INDEX}" if files else "no weights"
    raise ConfigError(
        "inputs", f"{label} with {found}", "a folder with model.safetensors, or with parts and their index"
    )


def names_in(path: Path, label: str) -> Iterable[str]:
    """The names of the tensors in a ``.safetensors`` file."""
    with _opened(path, label) as opened:
        return sorted(opened.keys())


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
