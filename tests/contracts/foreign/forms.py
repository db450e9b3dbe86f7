"""One batch in the forms in which other people's projects have it."""

from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    inputs: Tensor
    classes: Tensor


class Chemical(NamedTuple):
    """As chemprop has it: names of its own, the label under a capital letter, None for what is absent."""

    graph: Any
    V_d: Tensor | None
    Y: Tensor
    w: Tensor


@dataclass
class Record:
    x: Tensor
    label: Tensor
    note: str = ""


class Plain:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.target = x, y


class Slots:
    __slots__ = ("target", "x")

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.target = x, y


class Graph:
    """As torch-geometric has it: keys and items, many nodes to a graph, and the number of graphs."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._store = {"nodes": x.repeat_interleave(3, 0), "y": y}
        self.num_graphs = len(y)

    def keys(self) -> list[str]:
        return list(self._store)

    def __getitem__(self, key: str) -> Any:
        return self._store[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._store.items())

    def to(self, device: Any) -> "Graph":
        return self


class TensorRecord(UserDict):
    """As a TensorDict: a mapping with a size."""

    @property
    def batch_size(self) -> torch.Size:
        return self["y"].shape[:1]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return TensorRecord({name: value[key] for name, value in self.data.items()})
        return super().__getitem__(key)


class Encoding(UserDict):
    """As the BatchEncoding of transformers: a mapping that is no dict."""


class Form(NamedTuple):
    make: Callable[[Tensor, Tensor], Any]
    read: Callable[[Any], tuple[Tensor, Tensor]]
    rows: bool = True  # whether it can be cut into rows


def second(batch: Any) -> tuple[Tensor, Tensor]:
    return batch[0], batch[1]


FORMS = {
    "a pair": Form(lambda x, y: (x, y), second),
    "a list": Form(lambda x, y: [x, y], second),
    "three": Form(lambda x, y: (x, y, torch.ones(len(y))), second),
    "target and weight": Form(lambda x, y: (x, (y, torch.ones(len(y)))), lambda b: (b[0], b[1][0])),
    "target without weight": Form(lambda x, y: ({"x": x}, (y, None)), lambda b: (b[0]["x"], b[1][0])),
    "nested mappings": Form(lambda x, y: ({"x": x}, {"labels": y}), lambda b: (b[0]["x"], b[1]["labels"])),
    "a dict": Form(lambda x, y: {"x": x, "labels": y}, lambda b: (b["x"], b["labels"])),
    "an encoding": Form(lambda x, y: Encoding(x=x, labels=y), lambda b: (b["x"], b["labels"])),
    "a tensor record": Form(lambda x, y: TensorRecord(x=x, y=y), lambda b: (b["x"], b["y"])),
    "a named pair": Form(lambda x, y: Pair(x, y), second),
    "named parts": Form(lambda x, y: Chemical({"x": x}, None, y, torch.ones(len(y))), lambda b: (b.graph["x"], b.Y)),
    "a dataclass": Form(lambda x, y: Record(x, y), lambda b: (b.x, b.label)),
    "an object": Form(lambda x, y: Plain(x, y), lambda b: (b.x, b.target)),
    "slots": Form(lambda x, y: Slots(x, y), lambda b: (b.x, b.target)),
    "a namespace": Form(lambda x, y: SimpleNamespace(x=x, y=y), lambda b: (b.x, b.y)),
    "a graph": Form(lambda x, y: Graph(x, y), lambda b: (b["nodes"][::3], b["y"]), rows=False),
    "floats": Form(lambda x, y: (x, y.float()), lambda b: (b[0], b[1].long())),
    "a column": Form(lambda x, y: (x, y[:, None]), lambda b: (b[0], b[1][:, 0])),
    "marked": Form(lambda x, y: (x, torch.nn.functional.one_hot(y, 2).float()), lambda b: (b[0], b[1].argmax(1))),
    "truths": Form(lambda x, y: (x, y.bool()), lambda b: (b[0], b[1].long())),
    "a list of numbers": Form(lambda x, y: (x, y.tolist()), lambda b: (b[0], torch.tensor(b[1]))),
}
