"""What is not selected stays bit by bit, whatever the optimizer does; what is saved is really saved."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import Names, RandomElements, RandomHalf, Selection, TopMagnitude, as_mask
from lit_ft.running.processes import run_ranks
from lit_ft.sparse.gradient_mask import GradientMask
from lit_ft.testing import ForeignModule, assert_resumes, fit_foreign

HALF = RandomElements(0.5, seed=1)
MIXED = Names(["0.*"]) | RandomElements(0.3, patterns=["4.weight"])
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2, weight_decay=0.1),
    "foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=True),
}


class Module(ForeignModule):
    def __init__(self, optimizer: str = "adamw", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.kind]([p for p in self.parameters() if p.requires_grad])


class Watch(pl.Callback):
    """Values of all parameters after each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.seen.append({n: p.detach().clone() for n, p in ParameterIndex(module).parameters.items()})


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in ParameterIndex(module).parameters.items()}


def assert_held(before: dict, after: dict, selection: Selection, module: nn.Module) -> None:
    chosen = selection.select(module)
    moved = 0
    for name, parameter in ParameterIndex(module).parameters.items():
        mask = as_mask(chosen[name], parameter)
        assert torch.equal(before[name][~mask], after[name][~mask]), name
        moved += int((before[name] != after[name]).sum())
    number = sum(int(as_mask(c, module.get_parameter("model." + n)).sum()) for n, c in chosen.items())
    assert 0.9 * number < moved <= number  # and what is selected does move


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("selection", [HALF, MIXED])
def test_the_rest_is_held_under_any_optimizer(optimizer: str, selection: Selection) -> None:
    before = values(Module())
    module, _ = fit_foreign([GradientMask(selection)], module=Module(optimizer))
    assert_held(before, values(module), selection, module)


@pytest.mark.parametrize(
    "trainer", [{"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}]
)
def test_the_rest_is_held_under_accumulation_clipping_and_mixed_precision(trainer: dict) -> None:
    before = values(Module())
    module, _ = fit_foreign([GradientMask(MIXED)], module=Module(), **trainer)
    assert_held(before, values(module), MIXED, module)


def test_clipping_takes_the_norm_of_the_masked_gradient() -> None:
    """One step of SGD with a clipped gradient is as long as the bound, not shorter by what the mask took away."""

    class Plain(ForeignModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    before = values(Plain())
    module, _ = fit_foreign(
        [GradientMask(RandomElements(0.1))], module=Plain(), gradient_clip_val=1e-3, max_epochs=-1, max_steps=1
    )
    length = torch.cat([(p - before[n]).flatten() for n, p in values(module).items()]).norm()
    assert length == pytest.approx(1e-3, rel=1e-3)


def test_whole_tensors_cost_neither_gradient_nor_optimizer_state() -> None:
    mask = GradientMask(Names(["4.*"]))
    module = ForeignModule()  # its optimizer is given every parameter, frozen or not

    class Gradients(pl.Callback):
        found: set[str] = set()

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.found |= {n for n, p in module.model.named_parameters() if p.grad is not None}

    spy = Gradients()
    _, trainer = fit_foreign([mask, spy], module=module)
    assert spy.found == {"4.weight", "4.bias"}
    assert set(trainer.optimizers[0].state) == {module.model[4].weight, module.model[4].bias}
    report = mask.report()
    assert report["selected"] == 39
    assert report["share"] == 39 / report["total"]
    assert all(p.requires_grad for p in module.parameters())  # as before


def test_frozen_tensors_build_no_graph_below() -> None:
    seen = []

    class Spy(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            module.model[2].register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))

    fit_foreign([GradientMask(Names(["4.*"])), Spy()], max_steps=1, max_epochs=-1)
    assert seen == [False]


def test_zero_holds_zeros_at_every_step_and_density() -> None:
    watch, selection = Watch(), RandomElements(0.25, patterns=["*.weight"], others=True)
    module, _ = fit_foreign([GradientMask(selection, outside="zero"), watch], module=Module())
    chosen = selection.select(module)
    for step in watch.seen:
        for name, value in step.items():
            mask = as_mask(chosen[name], value)
            assert not value[~mask].any()
            assert value[mask].all() or name.endswith("bias")
    sparse = int((values(module)["4.weight"] == 0).sum())
    assert sparse == 27
    again, _ = fit_foreign([], module=module)  # dense fine-tuning wakes them
    assert int((values(again)["4.weight"] == 0).sum()) < sparse


def test_redrawing_holds_each_round_and_forgets_momentum() -> None:
    watch = Watch()
    mask = GradientMask(RandomElements(0.5), redraw_every_n_steps=4)
    module, trainer = fit_foreign([mask, watch], module=Module(norm=False))
    assert mask.report()["draws"] == 6
    steps = [values(Module(norm=False)), *watch.seen]
    for number in range(1, len(steps)):
        chosen = RandomElements(0.5).redrawn((number - 1) // 4).select(module)
        for name, value in steps[number].items():
            held = ~as_mask(chosen[name], value)
            assert torch.equal(value[held], steps[number - 1][name][held]), (number, name)
            assert not torch.equal(value[~held], steps[number - 1][name][~held])
    state = trainer.optimizers[0].state
    held = ~as_mask(chosen["0.weight"], module.model[0].weight)
    assert not state[module.model[0].weight]["exp_avg"][held].any()


def test_redrawn_whole_tensors_lose_their_optimizer_state() -> None:
    class Blocks(ForeignModule):
        def __init__(self) -> None:
            super().__init__(norm=False)
            torch.manual_seed(0)
            blocks = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(4)]
            self.model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(6, 3))

    mask = GradientMask(RandomHalf(), redraw_every_n_steps=5)
    module, trainer = fit_foreign([mask], module=Blocks())
    chosen = RandomHalf().redrawn(4).select(module)
    held = {n for n, p in ParameterIndex(module).parameters.items() if p in trainer.optimizers[0].state}
    assert held == {name for name, choice in chosen.items() if choice}
    assert 0 < len(held) < len(chosen)


def test_frozen_batch_norms_keep_their_statistics_and_use_them() -> None:
    before = {n: b.clone() for n, b in ForeignModule().model.named_buffers()}
    module, _ = fit_foreign([GradientMask(Names(["4.*"]))])
    assert all(torch.equal(before[n], b) for n, b in module.model.named_buffers())
    assert module.model[1].training
    module, _ = fit_foreign([GradientMask(Names(["1.*", "4.*"]))])
    assert not torch.equal(before["1.running_mean"], module.model[1].running_mean)


def test_names_of_the_network_and_of_the_module_mean_the_same() -> None:
    results = [values(fit_foreign([GradientMask(Names([p]))])[0]) for p in ("4.*", "model.4.*")]
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_nothing_selected_is_refused() -> None:
    with pytest.raises(ConfigError, match="some trainable parameter"):
        fit_foreign([GradientMask(~Names(["*"]))])
    with pytest.raises(ConfigError, match=r"nearest names: 0\.weight"):
        fit_foreign([GradientMask(Names(["0.wieght"]))])


class Unfreeze(pl.Callback):
    """As Lightning's BaseFinetuning does."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        module.requires_grad_(True)


def test_what_another_callback_unfreezes_is_refused_before_it_trains() -> None:
    module = ForeignModule()
    before = values(module)
    with pytest.raises(ConfigError, match="unfreezes what it does not select"):
        fit_foreign([GradientMask(Names(["4.*"])), Unfreeze()], module=module)
    assert all(torch.equal(before[name], value) for name, value in values(module).items())


class InConfigureModel(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.built, self.model = self.model, None

    def configure_model(self) -> None:
        if self.model is None:
            self.model = self.built


class InSetup(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.ready = [self.model]
        del self.model

    def setup(self, stage: str) -> None:
        self.model = self.ready.pop()


@pytest.mark.parametrize("make", [InConfigureModel, InSetup])
def test_a_network_that_is_built_late_is_frozen_before_its_optimizer(make: type) -> None:
    before = values(ForeignModule())
    module, trainer = fit_foreign([GradientMask(MIXED)], module=make())
    assert_held(before, values(module), MIXED, module)
    assert len(trainer.optimizers[0].state) == 3


def test_resume_goes_on_with_the_same_choices(tmp_path: Path) -> None:
    """The largest weights at the time of the crash are not the largest ones at the start."""
    assert_resumes(lambda: GradientMask(TopMagnitude(0.3)), tmp_path / "a")
    assert_resumes(lambda: GradientMask(HALF, redraw_every_n_steps=5), tmp_path / "b", crash_at=18)


def fit_ranks(selection: Selection, redraw: int | None, late: bool) -> tuple[dict, dict]:
    module = InSetup() if late else Module()
    mask = GradientMask(selection, redraw_every_n_steps=redraw)
    fit_foreign([mask], module=module, devices=2, strategy="ddp", max_epochs=1)
    return values(module), mask.report()


def test_ddp() -> None:
    before = values(Module())
    for redraw in (None, 2):
        (first, report), (second, _) = run_ranks(fit_ranks, 2, MIXED, redraw, False)
        assert all(torch.equal(first[n], second[n]) for n in first)
        if redraw is None:
            assert_held(before, first, MIXED, ForeignModule())
        else:
            assert report["draws"] > 1
    with pytest.raises(Exception, match="builds in setup"):
        run_ranks(fit_ranks, 2, MIXED, None, True)
