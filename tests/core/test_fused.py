"""The fused kernel of an optimizer: taken by itself, where it is right, and where nobody wrote otherwise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader

from lit_ft.callbacks import SAM
from lit_ft.core.errors import ConfigError
from lit_ft.core.fused import fused
from lit_ft.core.method import Method, Output

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: torch.randn(40, 9),
    "transposed": lambda: torch.randn(9, 40).t(),
    "channels last": lambda: torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last),
    "a number": lambda: torch.randn(()),
}
OPTIONS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (Adam, {"lr": 0.1, "amsgrad": True, "maximize": True, "eps": 1e-3}),
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    (AdamW, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    (Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
]


def made(kind: type[Optimizer], options: dict[str, Any], layout: str = "plain", dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    return kind([LAYOUTS[layout]().to(dtype).requires_grad_()], **options)


def stepped(optimizer: Optimizer, steps: int, transposed: bool, closure: bool) -> Tensor:
    (weight,) = optimizer.param_groups[0]["params"]
    draws = torch.Generator().manual_seed(1)

    def gradient() -> float:
        drawn = torch.randn(weight.shape, generator=draws).to(weight.dtype)
        drawn += drawn.sign()  # the square of a small one is none in half precision
        weight.grad = drawn.mT.contiguous().mT if transposed and drawn.ndim > 1 else drawn
        return 1.0

    for _ in range(steps):
        if closure:
            assert optimizer.step(gradient) == 1.0
        else:
            gradient()
            optimizer.step()
    return weight.detach().clone()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_it_computes_what_the_others_do(number: int, layout: str) -> None:
    """Whatever the strides of gradient and weight, before and after a checkpoint whose state is laid out otherwise."""
    kind, options = OPTIONS[number]
    for dtype in (torch.float32, torch.float64):
        ours, theirs = fused(made(kind, options, layout, dtype)), made(kind, options, layout, dtype)
        assert ours.param_groups[0]["fused"] is ours.defaults["fused"] is True
        for transposed in (False, True):
            found, expected = (stepped(one, 3, transposed, transposed) for one in (ours, theirs))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            saved = ours.state_dict()
            for state in saved["state"].values():
                state.update({key: value.contiguous() for key, value in state.items() if isinstance(value, Tensor)})
            ours.load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_weights_in_half_precision_move(number: int, dtype: torch.dtype, capsys: Any) -> None:
    """torch's fused SGD leaves them as they are on a CPU (2.13): it is not taken, and refused where it was written."""
    kind, options = OPTIONS[number]
    ours, theirs = fused(made(kind, options, dtype=dtype)), made(kind, options, dtype=dtype)
    torch.testing.assert_close(stepped(ours, 3, False, False), stepped(theirs, 3, False, False), rtol=0.02, atol=0.02)
    assert bool(ours.param_groups[0]["fused"]) is (kind is not SGD)
    if kind is SGD:
        assert "SGD runs without its fused kernel: weights of " in capsys.readouterr().err
        with pytest.raises(ConfigError, match=r"optimizer\.fused: given True; allowed: null: SGD cannot have it"):
            fused(made(kind, {**options, "fused": True}, dtype=dtype))


class Own(AdamW):
    """It may step otherwise."""


@pytest.mark.parametrize(
    ("kind", "options", "stands"),
    [
        (AdamW, {"fused": False}, False),
        (AdamW, {"foreach": True}, None),
        (SGD, {"foreach": False}, None),
        (AdamW, {"fused": True}, True),
        (Own, {}, None),
        (LBFGS, {}, None),
    ],
)
def test_what_was_written_stands(kind: type[Optimizer], options: Any, stands: Any, capsys: Any) -> None:
    assert fused(made(kind, options)).param_groups[0].get("fused") is stands
    assert not capsys.readouterr().err


def complex_weights() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("options", "weight", "why"),
    [
        ({}, complex_weights, "weights of complex64"),
        ({"differentiable": True}, lambda: torch.ones(2, requires_grad=True), "differentiable=True"),
        ({"capturable": True}, lambda: torch.ones(2, requires_grad=True), "capturable=True"),
        ({"lr": torch.tensor(0.1)}, lambda: torch.ones(2, requires_grad=True), "an option that is a tensor"),
        ({}, lambda: torch.ones(2, device="meta", requires_grad=True), "weights on meta"),
        ({}, lambda: torch.ones(4)[::2].requires_grad_(), "weights with gaps"),
        ({}, lambda: nn.Buffer(torch.ones(2)).requires_grad_(), None),
    ],
)
def test_where_it_cannot_be_is_said(options: Any, weight: Any, why: str | None, capsys: Any) -> None:
    found = fused(AdamW([weight()], **options))
    assert bool(found.param_groups[0]["fused"]) is (why is None)
    told = capsys.readouterr().err
    assert told.count("AdamW runs without its fused kernel: ") == (why is not None)
    assert (why or "") in told


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", [SGD, Adagrad])
def test_sparse_gradients_take_another_kernel(kind: Any, capsys: Any) -> None:
    def run(make: Callable[[Any], Optimizer]) -> Tensor:
        torch.manual_seed(0)
        embedding = nn.Embedding(5, 3, sparse=True)
        optimizer = make(kind(embedding.parameters(), lr=0.1))
        for row in (1, 1, 3):
            optimizer.zero_grad()
            embedding(torch.tensor([row])).sum().backward()
            optimizer.step()
        return embedding.weight.detach()

    assert torch.equal(run(fused), run(lambda optimizer: optimizer))
    assert capsys.readouterr().err.count("without its fused kernel: sparse gradients") == 1
    with pytest.raises(ConfigError, match=r"optimizer\.fused: given True; allowed: null"):
        run(lambda optimizer: fused(kind(optimizer.param_groups[0]["params"], lr=0.1, fused=True)))


# in a fit

ROWS = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))


class Squares(Method):
    def compute(self, batch: Tensor) -> Output:
        return Output((self.network(batch) ** 2).mean())


def weights(optimizer: Any, *callbacks: pl.Callback, **trainer: Any) -> Tensor:
    torch.manual_seed(0)
    module = Squares(nn.Linear(4, 3), optimizer)  # type: ignore[arg-type]
    if trainer.get("precision") == "16-mixed":  # Lightning alone would take bf16 on a CPU
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        trainer = {**trainer, "precision": None, "plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    runner = pl.Trainer(accelerator="cpu", max_epochs=2, callbacks=list(callbacks), **quiet, **trainer)  # type: ignore[arg-type]
    runner.fit(module, DataLoader(ROWS, batch_size=3))  # type: ignore[arg-type]
    return module.network.weight.detach()


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("written", [None, True])
def test_clipping_stands_beside_it(precision: str, algorithm: str, written: bool | None) -> None:
    """Lightning refuses to clip for a fused optimizer under autocast, also where no gradient is scaled."""
    settings = {"precision": precision, "gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    found, expected = (
        weights(partial(SGD, lr=0.5, momentum=0.9, fused=given), **settings) for given in (written, False)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    free = weights(partial(SGD, lr=0.5, momentum=0.9), precision=precision)
    assert (free - expected).norm() > 0.1, "it was clipped"


@pytest.mark.parametrize("written", [None, True])
def test_sam_under_a_gradient_scaler_sees_what_it_would_see_without(written: bool | None) -> None:
    found, expected = (
        weights(partial(AdamW, lr=0.1, fused=given), SAM(0.1), precision="16-mixed", gradient_clip_val=0.1)
        for given in (written, False)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fused": True, "foreach": True}, "optimizer: given .*`fused` and `foreach` cannot be `True` together"),
        ({"fused": True, "differentiable": True}, "optimizer: given .*`fused` does not support `differentiable`"),
    ],
)
def test_what_torch_refuses_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        weights(partial(AdamW, **options))
