"""Penalties on micro-batches against what they are by definition."""

import contextlib
import itertools
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_ft.callbacks import SAM, MicroBatchRegularizer
from lit_ft.core.errors import ConfigError
from lit_ft.flatness.micro_batch_regularizer import draw, penalised_scalar, squared_gradient_norm
from lit_ft.testing import ForeignModule, fit_foreign

PENALTIES = ["gradient_norm", "fisher_trace", "average_jacobian", "unit_jacobian"]


def small(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), torch.randn(2, 4).double()


def test_fisher_trace_by_enumeration() -> None:
    """The expectation of |g_m|^2 over all drawings of the labels is the trace of the Fisher matrix over m."""
    model, x = small()
    parameters = list(model.parameters())
    shares = model(x).softmax(-1).detach()
    expectation = torch.zeros(()).double()
    for labels in itertools.product(range(3), repeat=2):
        scalar = penalised_scalar("fisher_trace", torch.zeros(()), model(x), torch.tensor(labels))
        share = shares[0, labels[0]] * shares[1, labels[1]]
        expectation += share * squared_gradient_norm(scalar, parameters).detach()
    trace = torch.zeros(()).double()
    for i, label in itertools.product(range(2), range(3)):
        log_share = model(x[i : i + 1]).log_softmax(-1)[0, label]
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(log_share, parameters)])
        trace += shares[i, label] * gradient.square().sum() / 2
    assert expectation == pytest.approx(float(trace / 2), rel=1e-6)


def test_labels_are_drawn_from_the_model() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(20000, 3)
    labels = draw("fisher_trace", logits, torch.Generator().manual_seed(0))
    found = torch.bincount(labels, minlength=3) / 20000
    assert torch.allclose(found, logits[0].softmax(-1), atol=0.02)


def test_jacobians_of_a_linear_model() -> None:
    """For z = W x the average Jacobian is C |mean x|^2 and the unit Jacobian |mean x|^2."""
    model, x = nn.Linear(4, 3, bias=False).double(), torch.randn(7, 4).double()
    mean = float(x.mean(0).square().sum())
    for penalty, expected in (("average_jacobian", 3 * mean), ("unit_jacobian", mean)):
        drawn = draw(penalty, model(x), torch.Generator().manual_seed(3))
        scalar = penalised_scalar(penalty, torch.zeros(()), model(x), drawn)
        assert squared_gradient_norm(scalar, [model.weight]).item() == pytest.approx(expected, rel=1e-5)


class Sgd(ForeignModule):
    """One plain step shows the gradient."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__(norm=norm)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def one_step(callbacks: list[pl.Callback], norm: bool = True, **trainer: Any) -> Tensor:
    """The gradient of the first step, as what it did to the weights."""
    module = Sgd(norm)
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    fit_foreign(callbacks, None, module, max_epochs=None, max_steps=1, **trainer)
    return before - torch.cat([p.detach().flatten() for p in module.parameters()])


def test_gradient_is_twice_lambda_hessian_times_gradient() -> None:
    added = one_step([MicroBatchRegularizer(weight=0.1)]) - one_step([])
    caught = {}

    class Catch(Sgd):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            parameters = list(self.parameters())
            gradient = torch.autograd.grad(loss, parameters, create_graph=True)
            vector = [g.detach() for g in gradient]
            product = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
            caught["hvp"] = torch.cat([p.flatten() for p in product])
            return loss

    fit_foreign([], None, Catch(), max_epochs=None, max_steps=1)
    assert (added - 0.2 * caught["hvp"]).norm() < 1e-5 * added.norm() + 1e-6
    assert added.norm() > 1e-2


def added_by(penalty: str, form: str, radius: float = 0.01, **trainer: Any) -> Tensor:
    head = None if penalty == "gradient_norm" else "model.4"
    regularizer = MicroBatchRegularizer(penalty, 1.0, form, radius, head)
    return one_step([regularizer], False, accumulate_grad_batches=2, **trainer) - one_step(
        [], False, accumulate_grad_batches=2, **trainer
    )


@pytest.mark.parametrize("penalty", PENALTIES)
def test_finite_difference_equals_double_backward(penalty: str) -> None:
    """The difference is of the order of the radius: it halves with it."""
    exact = added_by(penalty, "double_backward")
    radii = (0.04, 0.02, 0.01)
    errors = [float((added_by(penalty, "finite_difference", r) - exact).norm() / exact.norm()) for r in radii]
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.3)
    assert errors[2] == pytest.approx(errors[1] / 2, rel=0.3)


@pytest.mark.parametrize("form", ["double_backward", "finite_difference"])
def test_mixed_precision_has_the_direction_of_full_precision(form: str) -> None:
    exact = added_by("gradient_norm", "double_backward")
    mixed = added_by("gradient_norm", form, 0.2, precision="bf16-mixed")
    assert F.cosine_similarity(mixed, exact, dim=0) > 0.95


def test_micro_batches_are_penalised_each() -> None:
    """The penalty of two micro-batches is the mean of two penalties, not that of the whole batch."""
    caught: list[float] = []

    class Norms(Sgd):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            caught.append(float(squared_gradient_norm(loss, list(self.parameters())).detach()))
            return loss

    fit_foreign([], None, Norms(), accumulate_grad_batches=2, max_epochs=None, max_steps=1)
    settings = {"accumulate_grad_batches": 2, "max_epochs": None, "max_steps": 1}
    _, trainer = fit_foreign([MicroBatchRegularizer()], None, Sgd(), **settings)
    assert len(caught) == 2
    assert float(trainer.callback_metrics["micro_batch_regularizer/penalty"]) == pytest.approx(caught[1], rel=1e-5)


def test_the_training_step_comes_back() -> None:
    class Fails(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 2:
                raise KeyError("on purpose")
            return super().training_step(batch, batch_idx)

    for module in (ForeignModule(), Fails()):
        with contextlib.suppress(KeyError):
            fit_foreign([MicroBatchRegularizer("average_jacobian", head="model.4")], None, module)
        assert "training_step" not in module.__dict__
        assert not module.model[4]._forward_hooks


@pytest.mark.parametrize("form", ["double_backward", "finite_difference"])
def test_sam_climbs_on_the_penalised_loss(form: str) -> None:
    """Radius 0 repeats the penalised gradient to the last bit, drawn labels and dropout included."""
    weights = []
    for more in ([], [SAM(rho=0.0)]):
        regularizer = MicroBatchRegularizer("fisher_trace", 0.1, form, head="model.4")
        module, _ = fit_foreign([regularizer, *more], accumulate_grad_batches=2)
        weights.append(module.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_refuses() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"penalty": "trace"}, "penalty"),
        ({"weight": -1.0}, "weight"),
        ({"radius": 0.0}, "radius"),
        ({"penalty": "fisher_trace"}, "head"),
        ({"head": "model.4"}, "head"),
        ({"form": "exact"}, "form"),
    ]
    for arguments, name in wrong:
        with pytest.raises(ConfigError, match=name):
            MicroBatchRegularizer(**arguments)
    with pytest.raises(ConfigError, match=r"did you mean 'model\.4'"):
        fit_foreign([MicroBatchRegularizer("fisher_trace", head="modle.4")])


class _Once(torch.autograd.Function):
    """The square, which forms its gradient for one backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * upstream * ctx.saved_tensors[0]


class Once(ForeignModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return _Once.apply(self.model(batch[0])).mean()


class Distances(ForeignModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.cdist(self.model(batch[0]), torch.zeros(2, 3), p=3.0).mean()


@pytest.mark.parametrize(("module", "lacks"), [(Once, "once_differentiable"), (Distances, "not implemented")])
def test_a_module_without_double_backward_is_told_of_the_other_form(module: type[ForeignModule], lacks: str) -> None:
    """The first would go on, its penalty without a gradient; the second would fail in the backward pass of training."""
    with pytest.raises(ConfigError, match=f"form: given 'double_backward'; allowed: finite_difference, .*{lacks}"):
        fit_foreign([MicroBatchRegularizer()], module=module())
    trainer, _ = fit_foreign([MicroBatchRegularizer(form="finite_difference")], module=module())
    assert trainer.global_step > 0
