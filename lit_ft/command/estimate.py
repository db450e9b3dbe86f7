"""``lit-ft estimate -c FILE``: the memory that a training step needs, measured on one batch."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import _configure_optimizers
from torch import Tensor

from lit_ft.command.first_batch import first_batch
from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method


def estimate_command(request: Request) -> int:
    """Print a table of bytes: weights, gradients, optimizer state, and what one batch keeps for its backward pass."""
    from rich.console import Console
    from rich.table import Table

    from lit_ft.command.run import build

    built = build(request)
    batch = first_batch(built)
    found = measured(built.model, batch)
    grid = Table("memory of", "MiB", box=None)
    for name, size in {**found, "sum": sum(found.values())}.items():
        grid.add_row(name, f"{size / 2**20:,.2f}")
    console = Console()
    console.print(grid)
    console.print(
        "On the CPU, in the precision of the weights, for the first batch; left out: workspace of kernels, what"
        " callbacks hold, mixed precision, fragmentation."
    )
    return 0


def measured(module: pl.LightningModule, batch: Any) -> dict[str, int]:
    """Bytes of one training step.

    Args:
        module: Its model is built, trained for one step on the batch, and not to be used afterwards.
        batch: As the loader gives it.

    Returns:
        Bytes of ``weights`` (buffers included), ``gradients``, ``optimizer`` state and ``activations``: what autograd
        keeps between forward and backward pass, each storage once, weights not counted again.
    """
    if not module.automatic_optimization:
        raise ConfigError("model", type(module).__name__, "a module whose optimizer steps are Lightning's")
    if isinstance(module, Method):
        module.schedule = None  # it would ask for the length of a run
    else:
        module.setup("fit")
        module.log = lambda *_, **__: None  # type: ignore[method-assign]  # no loop runs that takes it
    module.configure_model()
    (optimizer, *_), *_ = _configure_optimizers(module.configure_optimizers())  # type: ignore[arg-type]
    module.train()
    owned = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}  # the tensor is held, so that no other storage takes its address

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(module, batch)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return {
        "weights": _bytes([*module.parameters(), *module.buffers()]),
        "gradients": _bytes(gradients),
        "optimizer": _bytes(states),
        "activations": activations,
    }


def _loss(module: pl.LightningModule, batch: Any) -> Tensor:
    if isinstance(module, Method):
        return module.compute(batch).loss
    arguments = (batch, 0)[: len(signature(module.training_step).parameters)]
    found: Any = module.training_step(*arguments)
    return found["loss"] if isinstance(found, Mapping) else found


def _bytes(tensors: Sequence[Tensor]) -> int:
    """Of all storages, each once: tied weights share theirs."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
