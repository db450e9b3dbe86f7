"""Callbacks that run a module again leave it, and train it, as if they had not: whatever its step writes."""

import collections
import dataclasses
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_ft.callbacks import SAM, EdgeOfStability, sam_step
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.keeping import attributes
from lit_ft.testing import difference
from tests.contracts.foreign.project import Net, Rows, fit, rows, seeded
from tests.contracts.foreign.writers import MOVING, WRITERS, Counter, EditedGradients, Held, Hidden, Momentum, Moving

pytestmark = pytest.mark.usefixtures("empty_folder")
EXTRA: dict[str, Any] = {"SAM": lambda: SAM(0.0), "edge of stability": lambda: EdgeOfStability(every_n_steps=2)}


def plain(value: Any) -> Any:
    """What a value holds, in lists and dictionaries of tensors and numbers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, collections.deque)):
        return [plain(item) for item in value]
    if isinstance(value, (Tensor, int, float, str, type(None), bytearray)):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (torch.Generator, np.random.RandomState)):
        return plain(value.get_state())
    if isinstance(value, (np.random.Generator, random.Random)):
        return repr(value.bit_generator.state if isinstance(value, np.random.Generator) else value.getstate())
    if isinstance(value, nn.Module):
        return [dict(value.named_parameters()), dict(value.named_buffers())] + [own(m) for m in value.modules()]
    return plain(own(value)) if dataclasses.is_dataclass(value) else plain(getattr(value, "steps", None))


def own(module: Any) -> dict[str, Any]:
    kept = {"_current_fx_name", "_metric_attributes", "_apply", "inner"}
    return {name: plain(value) for name, value in attributes(vars(module)).items() if name not in kept}


@pytest.mark.parametrize(
    ("make", "parts"), [*((make, 1) for make in WRITERS), *((make, 2) for make in (Momentum, Counter, Hidden, Held))]
)
@pytest.mark.filterwarnings("ignore:EdgeOfStability. with SAM the edge")
def test_training_is_bit_for_bit_the_same(make: type[Net], parts: int) -> None:
    def trained(*callbacks: Any) -> Any:
        random.seed(0)
        module = seeded(make)
        fit(module, *callbacks, data=Rows(), accumulate_grad_batches=parts, max_steps=4 // parts)
        return plain(module)

    twice_differentiated = EdgeOfStability(every_n_steps=3, tol=0.1)
    perturbed = EdgeOfStability(every_n_steps=3, tol=0.1, training=True, product="finite_difference")
    assert not difference(trained(), trained(SAM(0.0), twice_differentiated, perturbed))
    assert twice_differentiated.measurements


@pytest.mark.parametrize("make", [Momentum, Held, EditedGradients])
def test_one_step_equals_a_step_by_hand(make: type[Net]) -> None:
    rho, batch = 0.2, list(rows()[:4])
    ours = seeded(make)
    fit(ours, SAM(rho), data=DataLoader(rows(number=4), 4), max_steps=1)

    hand = seeded(make)
    optimizer = hand.configure_optimizers()
    before = {name: p.detach().clone() for name, p in hand.named_parameters()}
    passes = getattr(hand, "passes", None)

    def gradient() -> dict[str, Tensor]:
        if passes is not None:
            hand.passes = 0
        optimizer.zero_grad()
        loss = hand.training_step(batch, 0)
        hand.on_before_backward(loss)
        loss.backward()
        hand.on_after_backward()
        return {name: p.grad.clone() for name, p in hand.named_parameters() if p.grad is not None}

    plain = gradient()
    after = {name: p.detach().clone() for name, p in hand.named_parameters()}
    norm = torch.stack([g.norm() for g in plain.values()]).norm()
    with torch.no_grad():
        for name, parameter in hand.named_parameters():
            parameter.copy_(before[name] + rho * plain[name] / norm if name in plain else before[name])
    sharp = gradient()
    with torch.no_grad():
        for name, parameter in hand.named_parameters():
            parameter.copy_(after[name])
            parameter.grad = sharp.get(name)
    optimizer.step()
    for name, parameter in hand.named_parameters():
        torch.testing.assert_close(dict(ours.named_parameters())[name], parameter, rtol=0, atol=1e-7)


def test_manual_optimisation_starts_its_second_pass_where_the_first_did() -> None:
    class ByHand(Momentum):
        automatic_optimization = False
        rho = 0.0
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()

            def closure() -> Tensor:
                self.steps += 1
                loss = super(ByHand, self).training_step(batch, batch_idx)
                self.manual_backward(loss)
                return loss

            sam_step(self, optimizer, closure, self.rho)

    plain, ours = seeded(Momentum), seeded(ByHand)
    fit(plain)
    fit(ours)
    assert ours.steps == 6
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)


class LargeBase(Net):
    """A large frozen base beside a small trained network, and a momentum network as large."""

    late = False

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.base = nn.Linear(4, 1 << 17).requires_grad_(False)  # 2.6 MB
            self.slow = nn.Linear(4, 1 << 17).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx or not self.late:
            self.slow.weight.data.mul_(0.9) if not self.late else self.slow.weight.mul_(0.9)
        with torch.no_grad():
            scale = self.slow.weight.mean() + self.base(batch[0]).mean()
        return self.loss(batch) * (1 + scale)


@pytest.mark.parametrize("late", [False, True])
def test_a_large_base_is_not_copied_and_what_is_written_of_it_is_kept(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(LargeBase):
        pass

    Own.late = late
    plain, ours = seeded(Own), seeded(Own)
    fit(plain)
    copied: list[int] = []
    clone = Tensor.clone
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        patch.setattr(Tensor, "clone", lambda tensor, **kw: (copied.append(tensor.shape), clone(tensor, **kw))[1])
        fit(ours, SAM(0.0))
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)
    large = [shape for shape in copied if shape.numel() > 1 << 18]
    assert set(large) == {torch.Size([1 << 17, 4])}  # the weight that is written, and never the base
    assert len(large) == (8 if late else 12)  # before each first pass, and around each second one
    told = [str(one.message) for one in said if "SAM" in str(one.message)]
    assert len(told) == late
    assert not late or "slow.weight" in told[0]


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("extra", ["SAM", "edge of stability"])
def test_what_cannot_be_put_back_is_refused_by_name(kind: str, extra: str) -> None:
    with pytest.raises(ConfigError, match=rf"^Moving.held: given 'a {kind} that each step moves on'; allowed: "):
        fit(Moving(*MOVING[kind]), EXTRA[extra]())
    fit(Moving(MOVING[kind][0], lambda held: None), EXTRA[extra]())  # what is only held is no matter
