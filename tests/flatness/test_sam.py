"""SAM against a hand-written loop, and the ways in which other implementations go wrong."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F

from lit_ft.callbacks import GSAM, SAM, FriendlySAM, LookSAM, sam_step
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method, Output
from lit_ft.flatness.perturbation import perturbation, total_norm
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign


class Plain(ForeignModule):
    """With SGD, which passes a small difference on without blowing it up."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)


def hand_written(
    module: Plain,
    rho: float = 0.05,
    adaptive: bool = False,
    parts: int = 1,
    clip: tuple[str, float] | None = None,
    alpha: float = 1.0,
    every: int = 1,
    group: int | None = None,
    bf16: bool = False,
) -> Plain:
    """Two epochs of SAM over ForeignData, in the plainest words."""
    pl.seed_everything(11, verbose=False)
    optimizer, step = module.configure_optimizers(), 0
    parameters = list(module.parameters())

    def gradient(batches: list, states: list | None) -> tuple[list[Tensor], list[Tensor]]:
        module.zero_grad()
        used = []
        for i, (x, y) in enumerate(batches):
            if states is not None:
                torch.set_rng_state(states[i])
            used.append(torch.get_rng_state())
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(module.model(x).float(), y) / parts
            loss.backward()
        return [p.grad.clone() for p in parameters], used

    def sharp(batches: list, states: list, plain: list[Tensor]) -> list[Tensor]:
        scale = [p.detach().abs() + 0.01 if adaptive else torch.ones_like(p) for p in parameters]
        length = torch.stack([(t * g).norm() for t, g in zip(scale, plain, strict=True)]).norm()
        kept = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            for p, t, g in zip(parameters, scale, plain, strict=True):
                p += rho * t * t * g / (length + 1e-12)
        result, _ = gradient(batches, states)
        module.load_state_dict(kept)
        return result

    module.train()
    loader = ForeignData().train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        for start in range(0, len(batches), parts):
            window = batches[start : start + parts]
            plain, states = gradient(window, None)
            after = torch.get_rng_state()
            final = plain
            if step % every == 0:
                size, final = group or len(window), [torch.zeros_like(g) for g in plain]
                for i in range(0, len(window), size):
                    own = plain
                    if group is not None:
                        kept = copy.deepcopy(module.state_dict())
                        own, _ = gradient(window[i : i + size], states[i : i + size])
                        module.load_state_dict(kept)
                    s = sharp(window[i : i + size], states[i : i + size], own)
                    final = [f + v for f, v in zip(final, s, strict=True)]
                final = [torch.lerp(g, s, alpha) for g, s in zip(plain, final, strict=True)]
            torch.set_rng_state(after)
            for p, g in zip(parameters, final, strict=True):
                p.grad = g
            if clip is not None:
                clipper = nn.utils.clip_grad_norm_ if clip[0] == "norm" else nn.utils.clip_grad_value_
                clipper(parameters, clip[1])
            optimizer.step()
            step += 1
    return module


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max((x.double() - y.double()).abs().max().item() for x, y in pairs)


CASES: dict[str, tuple[dict, dict, dict]] = {  # SAM's arguments, the trainer's, the loop's
    "plain": ({}, {}, {}),
    "asam": ({"rho": 1.0, "adaptive": True}, {}, {"rho": 1.0, "adaptive": True}),
    "accumulation": ({}, {"accumulate_grad_batches": 2}, {"parts": 2}),
    "short last window": ({}, {"accumulate_grad_batches": 4}, {"parts": 4}),
    "clip norm": ({}, {"gradient_clip_val": 0.1}, {"clip": ("norm", 0.1)}),
    "clip value": (
        {"rho": 0.5},
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
        {"rho": 0.5, "clip": ("value", 0.05)},
    ),
    "bf16": ({}, {"precision": "bf16-mixed"}, {"bf16": True}),
    "bf16, accumulation, clip": (
        {},
        {"precision": "bf16-mixed", "accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"bf16": True, "parts": 3, "clip": ("norm", 0.1)},
    ),
    "every third step": ({"every_n_steps": 3}, {"accumulate_grad_batches": 2}, {"every": 3, "parts": 2}),
    "mixed with the plain gradient": ({"alpha": 0.25}, {}, {"alpha": 0.25}),
    "groups": ({"group_size": 2}, {"accumulate_grad_batches": 3}, {"group": 2, "parts": 3}),
}


@pytest.mark.parametrize("norm", [False, True], ids=["", "batch norm"])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_hand_written_loop(case: str, norm: bool) -> None:
    sam, trainer, loop = CASES[case]
    module, _ = fit_foreign([SAM(**sam)], None, Plain(norm=norm), **trainer)
    expected = hand_written(Plain(norm=norm), **loop)
    # a second epoch of bf16 multiplies a difference in the last bit
    assert distance(module.model, expected.model) <= (5e-8 if not norm else 5e-7)
    plain, _ = fit_foreign([], None, Plain(norm=norm), **trainer)
    assert distance(module.model, plain.model) > 1e-4


class SetFree(pl.Callback):
    """Trains all but the first layer for a while."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        module.model[0].requires_grad_(trainer.global_step >= 6)


@pytest.mark.parametrize("variant", [LookSAM, FriendlySAM])
def test_variants_forget_what_was_of_other_parameters(variant: type) -> None:
    sam = SAM(rho=0.1, every_n_steps=2, variant=variant())
    module, trainer = fit_foreign([SetFree(), sam])
    assert trainer.global_step > 8
    (memory,) = sam.state_dict()["variant"].values()
    assert [m.shape for m in memory] == [p.shape for p in module.parameters()]


# the failures of closure optimizers and of callbacks that keep the last batch


def test_values_logged_are_those_of_the_weights() -> None:
    logged = {}
    for name, callbacks in (("sam", [SAM(rho=5.0)]), ("plain", [])):
        _, trainer = fit_foreign(callbacks, max_epochs=None, max_steps=1)
        logged[name] = trainer.logged_metrics
    assert logged["sam"]["loss"] == logged["plain"]["loss"]
    assert logged["sam"]["accuracy"] == logged["plain"]["accuracy"]
    assert logged["sam"]["sam/perturbed_loss"] > logged["sam"]["loss"] * 1.5


def test_hooks_fire_once_a_step() -> None:
    class Count(pl.Callback):
        def __init__(self) -> None:
            self.fired = dict.fromkeys(("on_before_optimizer_step", "on_before_backward", "on_after_backward"), 0)

        def on_before_optimizer_step(self, *args: Any) -> None:
            self.fired["on_before_optimizer_step"] += 1

        def on_before_backward(self, *args: Any) -> None:
            self.fired["on_before_backward"] += 1

        def on_after_backward(self, *args: Any) -> None:
            self.fired["on_after_backward"] += 1

    calls = []

    class Counted(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

    count = Count()
    fit_foreign([count, SAM()], None, Counted(), accumulate_grad_batches=2)
    assert count.fired == {"on_before_optimizer_step": 12, "on_before_backward": 22, "on_after_backward": 22}
    assert len(calls) == 44


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_step_may_pop_keys_and_skip_batches() -> None:
    class AsDict(ForeignData):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"x": batch[0], "more": [{"y": batch[1]}]} if self.trainer.training else batch

    class Popping(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step((batch.pop("x"), batch["more"].pop()["y"]), batch_idx)
            return None if batch_idx == 3 else {"loss": loss}

    class Reading(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 3 else loss

    a, _ = fit_foreign([SAM()], None, Popping(norm=False), AsDict())
    b, _ = fit_foreign([SAM()], None, Reading(norm=False))
    assert distance(a, b) == 0


@pytest.mark.parametrize("variant", [None, LookSAM()])
def test_averaged_weights_stay_while_batch_norms_are_renewed(variant: Any) -> None:
    class Average(StochasticWeightAveraging):
        def transfer_weights(self, source: Any, target: Any) -> None:
            super().transfer_weights(source, target)
            self.average = [parameter.detach().clone() for parameter in target.parameters()]

    average = Average(1e-2, swa_epoch_start=1)
    module, _ = fit_foreign([average, SAM(variant=variant)], max_epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(average.average, module.parameters(), strict=True))


def test_fp16_scaler_on_cpu(tmp_path: Path) -> None:
    def scaled(start: float) -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=start))

    module, _ = fit_foreign([SAM()], None, Plain(norm=False), plugins=[scaled(2.0**10)])
    exact, _ = fit_foreign([SAM()], None, Plain(norm=False))
    plain, _ = fit_foreign([], None, Plain(norm=False))
    assert distance(module, exact) < 0.2 * distance(exact, plain)
    # an overflow skips the step and leaves finite weights
    module, trainer = fit_foreign([SAM()], None, Plain(norm=False), plugins=[scaled(2.0**40)])
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**40
    assert all(p.isfinite().all() for p in module.parameters())


def test_torch_compile() -> None:
    class Quiet(Plain):  # torch 2.13 cannot trace self.log of Lightning 2.6
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    eager, _ = fit_foreign([SAM()], None, Quiet(norm=False), max_epochs=1)
    compiled = torch.compile(Quiet(norm=False), backend="aot_eager")
    fit_foreign([SAM()], None, compiled, max_epochs=1)
    assert distance(eager.model, compiled._orig_mod.model) == 0


def test_weights_stay_where_they_are_in_memory() -> None:
    module = Plain()
    where = [p.data_ptr() for p in module.parameters()]
    fit_foreign([SAM()], None, module, max_epochs=1)
    assert [p.data_ptr() for p in module.parameters()] == where


def test_parameters_without_gradient_are_not_moved() -> None:
    class Switching(Plain):
        """One parameter takes part only while the weights are unperturbed, one nobody optimises, one is frozen."""

        def __init__(self) -> None:
            super().__init__(norm=False)
            self.sometimes, self.alone = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx) + (self.alone * self.frozen).sum()
            passes.append(batch_idx)  # not state of the module, which a second pass starts from as the first did
            return loss if len(passes) % 2 == 0 else loss + (self.sometimes**2).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([*self.model.parameters(), self.sometimes], lr=0.1, weight_decay=0.1)

    passes: list[int] = []
    module, _ = fit_foreign([SAM(rho=0.5)], None, Switching(), max_epochs=None, max_steps=3)
    assert torch.equal(module.sometimes, torch.ones(3))  # its gradient at the perturbed weights is None
    assert torch.equal(module.frozen, torch.ones(3))
    assert torch.equal(module.alone, torch.ones(3))
    assert torch.equal(module.alone.grad, 3 * torch.ones(3))  # as without SAM, where nobody zeroes it


def test_element_masks_act_in_both_passes() -> None:
    module = Plain(norm=False)
    weight = module.model[0].weight
    mask = (torch.arange(weight.numel()) % 2).view_as(weight).float()
    weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", p.grad * mask))
    before = weight.detach().clone()

    class NoDecay(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.0

    fit_foreign([NoDecay(), SAM(rho=0.5)], None, module, accumulate_grad_batches=2)
    assert torch.equal(weight[mask == 0], before[mask == 0])
    assert not torch.isclose(weight[mask == 1], before[mask == 1]).any()


class Ragged(Method):
    """Rows are weighed, and the mean over a micro-batch is over its weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        super().__init__(network, lambda p: torch.optim.SGD(p, lr=0.2))

    def compute(self, batch: tuple[Tensor, Tensor]) -> Output:
        weight = self._rows(batch)
        losses = F.cross_entropy(self.network(batch[0]), batch[1], reduction="none")
        return Output((weight * losses).sum() / weight.sum())

    def loss_weight(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._rows(batch).sum()

    @staticmethod
    def _rows(batch: tuple[Tensor, Tensor]) -> Tensor:
        return (batch[0][:, 0].abs() * 4).round() + (batch[1] == 2) * 7


class Rows(pl.LightningDataModule):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> Any:
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
        data = torch.utils.data.TensorDataset(x, x[:, :3].argmax(1))
        return torch.utils.data.DataLoader(data, self.batch)


def test_micro_batches_are_weighed_as_in_the_first_pass() -> None:
    modules = []
    for parts in (4, 1):
        data = Rows(8 // parts)
        module, _ = fit_foreign([SAM(rho=0.3)], None, Ragged(), data, accumulate_grad_batches=parts)
        modules.append(module)
    assert distance(*modules) < 1e-6
    plain, _ = fit_foreign([], None, Ragged(), Rows(8))
    assert distance(modules[1], plain) > 1e-3


@pytest.mark.parametrize("parts", [1, 3])
def test_radius_0_is_no_callback_for_a_method_either(parts: int) -> None:
    modules = [fit_foreign(c, None, Ragged(), Rows(3), accumulate_grad_batches=parts)[0] for c in ([SAM(0.0)], [])]
    assert distance(*modules) == 0


# when things go wrong


def test_falls_back_when_the_perturbed_gradient_is_not_finite() -> None:
    class Cliff(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.model[0].weight.abs().max() > 10 else loss

    sam = SAM(rho=1e4, variant=LookSAM(), every_n_steps=2)
    with pytest.warns(UserWarning, match="plain gradient"):
        module, _ = fit_foreign([sam], None, Cliff(), accumulate_grad_batches=2)
    plain, _ = fit_foreign([], None, Cliff(), accumulate_grad_batches=2)
    assert distance(module, plain) == 0


def test_a_loss_that_is_not_finite_passes_through() -> None:
    class Bad(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (float("inf") if batch_idx == 2 else 1)

        def configure_gradient_clipping(self, optimizer: Any, **kwargs: Any) -> None:
            if any(not p.grad.isfinite().all() for p in self.parameters()):
                optimizer.zero_grad()

    module, _ = fit_foreign([SAM(variant=FriendlySAM())], None, Bad())
    assert all(p.isfinite().all() for p in module.parameters())


def test_refuses(tmp_path: Path) -> None:
    for arguments in ({"rho": -0.1}, {"rho": float("nan")}, {"every_n_steps": 0}, {"alpha": -1}, {"group_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            SAM(**arguments)
    with pytest.raises(ConfigError, match="variant"):
        SAM(sync=False, variant=GSAM())

    class Manual(ForeignModule):
        automatic_optimization = False

    class Iterates(ForeignModule):
        def training_step(self, dataloader_iter: Any) -> Tensor:
            raise AssertionError("never reached")

    class WithLBFGS(ForeignModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.parameters())

    class Sparse(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 6, sparse=True)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch[0] + self.table(batch[1]), batch[1]), batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    refused: list[tuple[Callable, str]] = [
        (Manual, "sam_step"),
        (Iterates, "dataloader_iter"),
        (WithLBFGS, "LBFGS"),
        (Sparse, "sparse"),
    ]
    for make, message in refused:
        with pytest.raises(ConfigError, match=message):
            fit_foreign([SAM()], None, make())


# by hand


def test_sam_step_in_manual_optimisation() -> None:
    class Manual(Plain):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            def closure() -> Tensor:
                loss = Plain.training_step(self, batch, batch_idx)
                self.manual_backward(loss)
                return loss

            sam_step(self, self.optimizers(), closure)

    for norm in (False, True):
        manual, _ = fit_foreign([], None, Manual(norm=norm))
        automatic, _ = fit_foreign([SAM()], None, Plain(norm=norm))
        assert distance(manual, automatic) == 0


def test_quadratic_in_closed_form() -> None:
    """For L = w A w / 2 the sharp gradient is (I + rho A / |A w|) A w."""
    root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, rho = root @ root.T, 0.3
    module = nn.Linear(5, 1, bias=False).double()
    before = module.weight.detach().clone().squeeze()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)

    def closure() -> None:
        w = module.weight.squeeze()
        (0.5 * w @ matrix @ w).backward()

    sam_step(module, optimizer, closure, rho=rho)
    gradient = matrix @ before
    expected = gradient + rho * matrix @ gradient / gradient.norm()
    assert torch.allclose(before - module.weight.squeeze(), expected, atol=1e-12)


def test_adaptive_radius_does_not_depend_on_scale() -> None:
    """Rescaling a weight and its input leaves the perturbed function where it was (eta = 0)."""
    g, w, c = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -1.2, 2.0]), torch.tensor([10.0, 0.1, 3.0])
    step = perturbation([g], [w], 0.7, adaptive=True, eta=0.0)[0]
    rescaled = perturbation([g / c], [w * c], 0.7, adaptive=True, eta=0.0)[0]
    assert torch.allclose((w + step) * c, w * c + rescaled, atol=1e-6)
    assert (step / w).norm() == pytest.approx(0.7)


# variants


def random_gradients(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def test_gsam_leaves_the_sharp_direction_alone() -> None:
    g, s = random_gradients(0), random_gradients(1)
    final = flat(GSAM(alpha=0.7).combine(g, s))
    g, s = flat(g), flat(s)
    assert torch.allclose(final, s - 0.7 * (g - s * (g @ s) / (s @ s)), atol=1e-6)
    assert final @ s == pytest.approx(float(s @ s), rel=1e-5)


def test_looksam_reuses_what_is_new() -> None:
    g, s, later = random_gradients(0), random_gradients(1), random_gradients(2)
    variant = LookSAM(alpha=0.5)
    assert variant.between(later) is later
    variant.combine(g, s)
    added = flat(variant.between(later)) - flat(later)
    assert added @ flat(g) == pytest.approx(0, abs=1e-4)
    assert added.norm() == pytest.approx(0.5 * float(flat(later).norm()), rel=1e-5)


def test_friendly_sam_climbs_along_the_noise() -> None:
    variant = FriendlySAM(sigma=1.0, momentum=0.9)
    first, second, third = random_gradients(0), random_gradients(1), random_gradients(2)
    assert torch.equal(flat(variant.direction(first)), flat(first))
    assert torch.allclose(flat(variant.direction(second)), flat(second) - flat(first), atol=1e-6)
    mean = 0.9 * flat(first) + 0.1 * flat(second)
    assert torch.allclose(flat(variant.direction(third)), flat(third) - mean, atol=1e-6)


def test_penalty_is_hessian_times_gradient() -> None:
    """With alpha = lambda / rho the step is that of L + lambda |g|, to first order in rho."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    parameters, strength, rho = list(module.parameters()), 0.1, 1e-5
    loss = F.mse_loss(module(x), y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    norm = torch.sqrt(sum((g**2).sum() for g in gradient))
    exact = torch.autograd.grad(loss + strength * norm, parameters)
    plain = [g.detach() for g in gradient]
    with torch.no_grad():
        for p, e in zip(parameters, perturbation(plain, parameters, rho), strict=True):
            p += e
    sharp = torch.autograd.grad(F.mse_loss(module(x), y), parameters)
    alpha = strength / rho
    mixed = [(1 - alpha) * g + alpha * s for g, s in zip(plain, sharp, strict=True)]
    assert flat(mixed).sub(flat(list(exact))).norm() < 1e-4 * flat(list(exact)).norm()


def test_radius_follows_the_learning_rate() -> None:
    sam = SAM(rho=0.4, rho_follows_lr=True)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.25)
    assert sam._radius(optimizer) == pytest.approx(0.1)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0, 0.2)])
def test_radius_follows_the_learning_rate_where_that_of_the_first_group_is_0(rates: tuple[float, float]) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    expected = 0.4 if any(rates) else 0.0
    assert SAM(rho=0.4, rho_follows_lr=True)._radius(torch.optim.SGD(groups)) == pytest.approx(expected)


def test_norm_of_tensors_of_several_types() -> None:
    single, double, complex_ = torch.tensor([3.0]), torch.tensor([4.0]).double(), torch.tensor([5.0 + 12.0j])
    for tensors in ([single, double, complex_], [complex_.conj(), double, single]):
        assert total_norm(tensors).item() == pytest.approx((9 + 16 + 169) ** 0.5, rel=1e-12)
