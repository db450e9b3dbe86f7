"""One row for each public class: how it is made in small, and what it runs with.

The rows of a family are the ``EXAMPLES`` of its ``examples.py``, by the name of the class; ``SAM, LookSAM`` is another
row of ``SAM``. All contracts run every row. What makes an object is called in an empty folder of its own, in which it
may write.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric

from lit_ft.testing import ForeignData, ForeignModule


@dataclass(frozen=True)
class OfCallback:
    """A callback, and the run that it takes part in.

    Args:
        make: Makes it as it is used.
        no_op: Makes it in the setting in which a run is the same as without it; None: there is none.
        lasting: Makes it in a setting in which two fits of one trainer are one long fit (no share of all steps, nothing
            at the end of each); None: ``make`` does.
        module: Makes the module.
        data: Makes its data.
        one_process: Whether it refuses to train in several processes.
    """

    make: Callable[[], Callback]
    no_op: Callable[[], Callback] | None = None
    lasting: Callable[[], Callback] | None = None
    module: Callable[[], LightningModule] = ForeignModule
    data: Callable[[], LightningDataModule] = ForeignData
    one_process: bool = False


@dataclass(frozen=True)
class OfRun:
    """A method or a data module, in a run with what it needs of the other kind.

    Args:
        module: Makes the method.
        data: Makes the data module.
        fit: Where this run differs from two epochs with two micro-batches a step that die before the sixth micro-batch.
        lasting: Whether two fits of one trainer are one long fit.
        alone: Whether its checkpoint alone makes the method again; else it asks for the network that it started from.
        real: Whether it needs packaged data.
    """

    module: Callable[[], LightningModule]
    data: Callable[[], LightningDataModule]
    fit: Mapping[str, Any] = field(default_factory=dict)
    lasting: bool = True
    alone: bool = True
    real: bool = False


@dataclass(frozen=True)
class OfMetric:
    """A metric.

    Args:
        make: Makes it.
        update: The arguments of its nth update.
        of_nothing: Whether it has a value, not a number, of no rows; else it says what it needs.
        shared: Whether each rank updates it with rows of its own; else all with the same.
    """

    make: Callable[[], Metric]
    update: Callable[[int], tuple[Any, ...]]
    of_nothing: bool = True
    shared: bool = True


Row = TypeVar("Row")


def rows(kind: type[Row]) -> dict[str, Row]:
    """All rows of one kind, by name."""
    found: dict[str, Row] = {}
    for path in sorted(Path(__file__).parent.glob("*/examples.py")):
        table = import_module(f"tests.{path.parent.name}.examples").EXAMPLES
        found |= {name: row for name, row in table.items() if isinstance(row, kind)}
    return found


def class_of(name: str) -> str:
    """The class of a row."""
    return name.partition(",")[0]


# what several families make their rows of

LLAMA: Any = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "attention_dropout": 0.2, "tokenizer": "bytes",
}  # fmt: skip
BERT: Any = {
    "model_type": "bert", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "tokenizer": "bytes",
}  # fmt: skip
MLP: Any = {"model_type": "mlp", "width": 8, "dropout": 0.2}


def written(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A file of rows in the present folder."""
    path = Path(name).resolve()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(*without: str) -> str:
    """A file of forty rows in which data modules of text find their columns, but for some that would be in doubt."""
    rows = [
        {"prompt": f"q{i} " + "p" * (1 + 5 * i % 9), "completion": "c" * (1 + 7 * i % 9), "chosen": f"yes {i}",
         "rejected": f"no, {i % 7}", "anchor": f"a{i}", "positive": f"{i} a", "text": "t" * (9 + 17 * i % 51),
         "score": i % 3, "label": i % 3, "task": "xy"[i % 2]}
        for i in range(40)
    ]  # fmt: skip
    return written("texts.jsonl", [{name: row[name] for name in row if name not in without} for row in rows])


def drawn(seed: int) -> Callable[..., torch.Tensor]:
    """A function that draws a tensor of a shape, below a number where one is given."""
    draw = torch.Generator().manual_seed(seed)

    def tensor(*shape: int, below: int | None = None) -> torch.Tensor:
        return torch.rand(shape, generator=draw) if below is None else torch.randint(below, shape, generator=draw)

    return tensor
