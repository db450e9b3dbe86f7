"""A second pass leaves no trace."""

import copy
import random
from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.aggregation import CatMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision

from lit_ft.callbacks import SAM
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.second_pass import copied, without_trace
from lit_ft.testing import ForeignData, ForeignModule, difference, fit_foreign


class Traces(pl.LightningModule):
    """Leaves a trace of every kind when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None), nn.Dropout(0.5), nn.Linear(4, 3))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("written", torch.zeros(2))
        self.seen = CatMetric()
        self.scores = MetricCollection([MulticlassAccuracy(3), MulticlassPrecision(3)])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.model(x)
        self.replaced = self.replaced + random.random()
        self.written += np.random.rand()
        self.seen(logits.detach())
        self.log_dict(self.scores(logits, y))
        self.log("loss", 0.0)
        self.eval().train()
        return nn.functional.cross_entropy(logits, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def traces(self) -> dict[str, Any]:
        metrics = {name: m for name, m in self.named_modules() if hasattr(m, "_defaults")}
        names = ("_update_count", "_computed", "_forward_cache")
        kept = {n: {k: m.__dict__[k] for k in (*m._defaults, *names)} for n, m in metrics.items()}
        generators = [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]
        flags = [m.training for m in self.modules()]
        return copy.deepcopy(
            {"buffers": dict(self.named_buffers()), "kept": kept, "random": generators, "flags": flags}
        )


class Again(pl.Callback):
    """Runs the module again after each batch, silently, and compares."""

    def __init__(self) -> None:
        self.inside: list[list[str]] = []
        self.after: list[list[str]] = []
        self.logged: list[dict] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Traces, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.model[0].eval()
        before, logged = pl_module.traces(), dict(trainer.callback_metrics)
        with without_trace(trainer, pl_module):
            pl_module.training_step(batch, batch_idx)
            pl_module.eval()
            self.inside.append(difference(before, pl_module.traces()))
        self.after.append(difference(before, pl_module.traces()))
        assert not difference(logged, dict(trainer.callback_metrics))
        assert "log" not in pl_module.__dict__
        pl_module.train()


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`:UserWarning")
def test_silent_restores_everything() -> None:
    again = Again()
    _, trainer = fit_foreign([again], None, Traces(), ForeignData(), max_epochs=1)
    assert again.after == [[]] * 11
    touched = {path.split("/")[1].split("[")[0] for path in again.inside[0]}
    assert touched == {"buffers", "kept", "random", "flags"}  # the check can see each kind
    assert any("num_batches_tracked" in path for path in again.inside[0])
    assert {"loss", "MulticlassAccuracy"} <= set(trainer.callback_metrics)


def test_silent_restores_after_an_error() -> None:
    module = Traces()
    before = module.traces()
    try:
        with without_trace(None, module):
            module.written += 1
            raise KeyError
    except KeyError:
        pass
    assert not difference(before, module.traces())


def test_the_same_objects_come_back() -> None:
    """Metrics of one compute group share their states; a module may keep a reference to its buffer."""
    module = Traces()
    buffer, states = module.replaced, module.seen.value
    with without_trace(None, module):
        module.replaced = module.replaced + 1
        module.seen.value.append(torch.ones(1))
    assert module.replaced is buffer
    assert module.seen.value is states
    assert states == []


def test_containers_are_copied_and_tensors_are_not() -> None:
    point = namedtuple("point", "x y")
    tensor = torch.ones(1)
    batch = {"a": [tensor, (tensor, 1)], "b": point(tensor, {"c": tensor}), "d": UserDict(e=tensor)}
    again = copied(batch)
    again["a"].pop()
    again["b"].y.pop("c")
    again["d"].pop("e")
    assert len(batch["a"]) == 2
    assert batch["b"].y["c"] is tensor
    assert batch["d"]["e"] is tensor
    assert again["a"][0] is tensor
    assert type(again["b"]) is point


def test_a_step_may_set_attributes_of_its_batch() -> None:
    @dataclass(frozen=True)
    class Frozen:
        parts: dict[str, Tensor]

    @dataclass
    class Pair:
        x: Tensor
        inner: Frozen

    class Graph:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    tensor = torch.ones(1)
    pair, graph = Pair(tensor, Frozen({"y": tensor})), Graph(tensor)
    again, other = copied([pair, graph])
    again.x, other.x = 2 * tensor, 2 * tensor
    again.inner.parts.pop("y")
    assert pair.x is graph.x is pair.inner.parts["y"] is tensor
    assert copied(pair).inner.parts["y"] is tensor


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_may_write_into_its_batch(accumulate: int) -> None:
    class Doubles(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            batch[0].mul_(2)
            return super().training_step(batch, batch_idx)

    class Doubled(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step((batch[0] * 2, batch[1]), batch_idx)

    for make in (lambda: SAM(rho=0.0), lambda: SAM(rho=0.05)):
        fit = {"max_steps": 5, "accumulate_grad_batches": accumulate}
        weights = [
            dict(fit_foreign([make()], make_module=kind, **fit)[0].state_dict())  # type: ignore[arg-type]
            for kind in (Doubles, Doubled)
        ]
        assert not difference(*weights), make()


def test_a_step_that_begins_to_write_into_its_batch_is_refused() -> None:
    class Later(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == 3:
                batch[0].mul_(2)
            return super().training_step(batch, batch_idx)

    with pytest.raises(
        ConfigError, match="given 'Later, whose training_step writes into its batch in some steps alone'"
    ):
        fit_foreign([SAM(rho=0.05)], make_module=Later, max_steps=5)
