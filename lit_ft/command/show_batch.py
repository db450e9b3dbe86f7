"""``lit-ft show-batch -c FILE``: what the network will see, before a step is spent on it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_ft.command.first_batch import first_batch
from lit_ft.command.request import Request


def show_batch_command(request: Request) -> int:
    """Print the first training batch: tokens coloured by target and weight, or shapes where there is no text."""
    from lit_ft.command.run import build

    built = build(request)
    batch = first_batch(built)
    tokenizer = getattr(built.model, "tokenizer", None)
    if isinstance(batch, Mapping) and "input_ids" in batch and tokenizer is not None:
        from lit_ft.command.show import render_batch

        print(render_batch(batch, tokenizer))
    else:
        print("\n".join(describe("batch", batch)))
    return 0


def describe(name: str, value: Any) -> list[str]:
    """Names, types, shapes and ranges of everything in a batch."""
    if isinstance(value, Tensor):
        span = f" in [{value.min().item():g}, {value.max().item():g}]" if value.numel() else ""
        return [f"{name}: {str(value.dtype).removeprefix('torch.')} {list(value.shape)}{span}"]
    if isinstance(value, Mapping):
        return [line for key, part in value.items() for line in describe(f"{name}.{key}", part)]
    if isinstance(value, (list, tuple)) and any(isinstance(part, (Tensor, Mapping)) for part in value):
        return [line for number, part in enumerate(value) for line in describe(f"{name}[{number}]", part)]
    return [f"{name}: {value!r}"]
