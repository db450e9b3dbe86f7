"""``lit-ft show-batch -c FILE``: what the network will see, before a step is spent on it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_ft.command.first_batch import first_batch
from lit_ft.command.request import Request

_LABELS = 20


def show_batch_command(request: Request) -> int:
    """Print the first training batch: tokens coloured by target and weight, or shapes where there is no text."""
    from lit_ft.command.run import build

    built = build(request)
    batch = first_batch(built)
    tokenizer = getattr(built.model, "tokenizer", None)
    if isinstance(batch, Mapping) and "input_ids" in batch and tokenizer is not None:
        from lit_ft.command.show import render_batch

        print(render_batch(batch, tokenizer, data=built.datamodule))
    else:
        print("\n".join([*describe("batch", batch), *labels(batch, built.datamodule)]))
    return 0


def labels(batch: Any, data: Any) -> list[str]:
    """The classes, and those of the first rows, of a batch with labels."""
    from lit_ft.command.row_names import class_line, label_name

    found = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(found, Tensor) or found.dim() not in (1, 2):
        return []
    first = ", ".join(label_name(label, data) for label in found[:_LABELS].tolist())
    return [*class_line(data), f"labels: {first}{', ...' * (len(found) > _LABELS)}"]


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
