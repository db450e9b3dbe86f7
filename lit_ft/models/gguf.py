"""GGUF files, expanded once into a folder that ``from_pretrained`` loads."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_ft.running.cache import cached
from lit_ft.running.files import sha256


def expanded(file: Path) -> Path:
    """The cached safetensors folder of a GGUF causal language model, with its tokenizer.

    The blocks are expanded to float32 on every machine: with a kernel for packed weights, ``transformers`` would keep
    them packed, and such a model can be neither trained nor saved. The cache is keyed by the file's sha256.
    """
    is_now = file.stat()
    digest = _digest(file.resolve(), is_now.st_size, is_now.st_mtime_ns)
    return cached(f"gguf/{file.stem}-{digest[:16]}", lambda folder: _expand(file, folder))


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """Read once a process, as long as it is the same file: a command asks for the network and for its tokenizer."""
    return sha256(file)


def _expand(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    rank_zero_info(f"Expanding {file.name} to float32, once")
    source, name = str(file.parent), file.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
