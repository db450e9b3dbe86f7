"""Modules that are odd but legal: what runs them again must cope with them, and leave no trace in what they keep."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torchmetrics import MeanMetric, MinMaxMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.wrappers import Running

from lit_ft.callbacks import SAM, EdgeOfStability
from lit_ft.core.curvature import hessian_eigenvalues
from lit_ft.testing import ForeignData, ForeignModule, assert_no_op, fit_foreign

CALLBACKS = {
    "SAM": lambda: SAM(rho=0.0),
    "EdgeOfStability": lambda: EdgeOfStability(every_n_steps=2),
    "EdgeOfStability of fixed batches": lambda: EdgeOfStability(every_n_steps=3, num_batches=2, training=True),
}


class Collecting(ForeignModule):
    """Keeps the outputs of its steps until the end of the epoch, as Lightning 2 teaches, and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self.by_kind: dict[str, list[Tensor]] = {"loss": []}
        self.running = torch.zeros(())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        self.by_kind["loss"].append(loss.detach())
        self.running = 0.9 * self.running + 0.1 * loss.detach()
        self.log("running", self.running)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean", torch.stack(self.outputs).mean())
        self.log("count", float(len(self.outputs) + len(self.by_kind["loss"])))
        self.outputs.clear()
        self.by_kind["loss"].clear()


class Wrapped(ForeignModule):
    """Metrics whose states are not all declared."""

    def __init__(self) -> None:
        super().__init__()
        self.best, self.recent = MinMaxMetric(MulticlassAccuracy(3)), Running(MeanMetric(), window=3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.best(self.model(batch[0]).float(), batch[1])
        self.recent(loss.detach())
        self.log_dict({**self.best.compute(), "recent": self.recent.compute()})
        return loss


class Buffers(ForeignModule):
    """Buffers that nobody can write to, and some that the step reads before it writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("expanded", torch.ones(1).expand(3))
        self.register_buffer("sparse", torch.eye(3).to_sparse(), persistent=False)
        with torch.inference_mode():
            fixed = torch.ones(3)
        self.register_buffer("fixed", fixed, persistent=False)
        self.register_buffer("queue", torch.zeros(4, 3))
        torch.manual_seed(0)
        spectral_norm(self.model[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.model(batch[0])
        loss = F.cross_entropy(logits.float(), batch[1]) + (logits @ self.queue.T.to(logits)).square().mean()
        if self.training:
            self.queue = torch.cat([logits[:1].detach().float(), self.queue[:-1]])
        self.log("loss", loss)
        return loss


class Signature(ForeignModule):
    """Takes whatever comes, gives a dictionary with a loss of one dimension, and has a number called loss_weight."""

    loss_weight = 0.5

    def training_step(self, *args: Any) -> Any:
        return {"loss": self.loss_weight * super().training_step(*args)[None], "more": "of it"}


class Skipping(ForeignModule):
    """Has no loss for some batches."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch[1][0] == 0 else loss


class Keywords(ForeignModule):
    def training_step(self, batch: Any, **more: Any) -> Tensor:
        return super().training_step(batch, 0)


class Lazy(ForeignModule):
    """Has layers that get their size with the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.LazyLinear(12), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(3))


@pytest.mark.filterwarnings("ignore:.*(no eigenvalues|no threshold is known|`training_step` returned):UserWarning")
@pytest.mark.parametrize("module", [Collecting, Wrapped, Buffers, Signature, Skipping, Keywords, Lazy])
@pytest.mark.parametrize("name", list(CALLBACKS))
def test_the_run_is_that_without_the_callback(name, module, tmp_path, monkeypatch):
    made = []

    def fit(callbacks, folder, **arguments):
        made.append(module())
        return fit_foreign(callbacks, folder, made[-1], **arguments)

    monkeypatch.setattr("lit_ft.testing.fit_foreign", fit)
    assert_no_op(CALLBACKS[name], tmp_path, accumulate_grad_batches=2, max_epochs=1)
    assert len(made) == 2


def test_what_it_measures_of_an_odd_module():
    """The number called loss_weight, the dictionary and the dimension change the loss by a half, and nothing else."""
    batches = list(ForeignData().train_dataloader())
    plain, odd = ForeignModule(), Signature()
    a, b = (hessian_eigenvalues(module, batches, k=2, tol=1e-6) for module in (plain, odd))
    torch.testing.assert_close(b.values, 0.5 * a.values, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:.*(no eigenvalues|no threshold is known|`training_step` returned):UserWarning")
def test_skipped_steps_are_said_once_and_the_others_measured():
    tracker = EdgeOfStability(every_n_steps=1)
    with pytest.warns(UserWarning, match="training_step returns None"):
        fit_foreign([tracker], None, Skipping(), max_epochs=1)
    assert 0 < len(tracker.measurements) < 11


class Doubling(nn.Module):
    """Multiplies by a buffer that doubles with every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.factor *= 2
        return x * self.factor


def test_the_second_pass_starts_from_the_buffers_of_the_first():
    """Two micro-batches, factors 2 and 4 in both passes; the gradient of a linear loss is the same everywhere."""

    class Linear(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.doubling = nn.Linear(6, 1), Doubling()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.doubling(self.model(batch[0])).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    moved = []
    for callbacks in ([SAM(rho=0.5)], [SAM(rho=0.5, group_size=1)], []):
        module = Linear()
        with torch.no_grad():
            module.model.weight.zero_()
        fit_foreign(callbacks, None, module, max_epochs=None, max_steps=1, accumulate_grad_batches=2)
        assert module.doubling.factor == 4
        moved.append(module.model.weight.detach().clone())
    for weight in moved[:2]:
        torch.testing.assert_close(weight, moved[2])
