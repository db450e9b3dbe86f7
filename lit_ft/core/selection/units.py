"""The rows and columns that make up heads and feed-forward units."""

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.roles import head_counts, output_dim

Unit = dict[str, tuple[int, Tensor]]  # dimension and indices within each parameter


def head_units(index: ParameterIndex) -> dict[tuple[int, int], Unit]:
    """Query rows (and biases) and output columns of each head of the first stack, by block and head."""
    heads, _ = head_counts(index.network)
    if not heads:
        raise ConfigError("network", type(index.network).__name__, "a network whose config tells the number of heads")
    units: dict[tuple[int, int], Unit] = {}
    stack = next(iter(index.stacks), None)
    for entry in index.values():
        if entry.stack != stack or entry.block is None:
            continue
        rows, dim = None, output_dim(entry.module, entry.parameter)
        shape = entry.parameter.shape
        if entry.role == "attention.query":
            rows = torch.arange(shape[dim])
        elif entry.role == "attention.output" and not entry.bias:
            dim = 1 - dim
            rows = torch.arange(shape[dim])
        elif "attention.query" in entry.parts:
            rows = torch.cat([torch.arange(*span) for span in entry.parts["attention.query"].spans])
        if rows is None or len(rows) % heads:
            continue
        for head, part in enumerate(rows.chunk(heads)):
            units.setdefault((entry.block, head), {})[entry.name] = dim, part
    return units


def feed_forward_units(index: ParameterIndex) -> dict[tuple[int, int], Unit]:
    """Input rows (and biases) and the output column of each feed-forward unit of the first stack."""
    units: dict[tuple[int, int], Unit] = {}
    stack = next(iter(index.stacks), None)
    for entry in index.values():
        if entry.stack != stack or entry.block is None or entry.category != "feed_forward":
            continue
        dim = output_dim(entry.module, entry.parameter)
        if entry.role == "feed_forward.out":
            if entry.bias:
                continue
            dim = 1 - dim
        shape = entry.parameter.shape
        width = shape[dim] // (2 if entry.role == "feed_forward.gate_in" else 1)
        for unit in range(width):
            rows = torch.arange(unit, shape[dim], width)
            units.setdefault((entry.block, unit), {})[entry.name] = dim, rows
    return units


def network_units(index: ParameterIndex, unit: str) -> list[Unit]:
    """The units of a network in the order of blocks.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> units = network_units(ParameterIndex(MLP((2,), 2, width=2, depth=2)), "feed_forward")
        >>> len(units), units[0]
        (4, {'blocks.0.linear.weight': (0, tensor([0])), 'blocks.0.linear.bias': (0, tensor([0]))})
    """
    found = head_units(index) if unit == "head" else feed_forward_units(index)
    if not found:
        raise ConfigError("unit", unit, "head or feed_forward, of a network whose blocks have them")
    return [found[key] for key in sorted(found)]


def mark(mask: Tensor, part: tuple[int, Tensor]) -> Tensor:
    """Set the entries of a unit in a mask of its parameter, in place."""
    return mask.index_fill_(part[0], part[1].to(mask.device), True)
