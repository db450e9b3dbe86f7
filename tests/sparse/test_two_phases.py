"""Sparse fine-tuning in two phases and learned grafts: exact outside, exact oracles inside."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelPruning, StochasticWeightAveraging
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import RandomElements, SavedSelection, as_mask
from lit_ft.language.stop_below_loss import StopBelowLoss
from lit_ft.sparse.head_offsets import HeadOffsets
from lit_ft.sparse.learned_graft import LearnedGraft, score_gradient, soft_mask
from lit_ft.sparse.lottery_ticket import LotteryTicket
from lit_ft.sparse.sparse_delta import SparseDelta
from lit_ft.testing import ForeignModule, fit_foreign

OTHERS = [
    lambda: StochasticWeightAveraging(1e-2),
    EMAWeightAveraging,
    lambda: ModelPruning("l1_unstructured", amount=0.5),
    BackboneFinetuning,
]


class Module(ForeignModule):
    def __init__(self) -> None:
        super().__init__(norm=False)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in ParameterIndex(module).parameters.values()])


def dense(steps: int) -> torch.Tensor:
    return flat(fit_foreign([], module=Module(), max_epochs=-1, max_steps=steps)[0])


def test_a_ticket_is_the_largest_change_of_the_first_phase() -> None:
    ticket = LotteryTicket(first_steps=8, density=0.2)
    module, _ = fit_foreign([ticket], module=Module())  # under AdamW with decay
    start, end, learned = flat(Module()), flat(module), dense(8)
    number = round(0.2 * len(start))
    expected = torch.zeros(len(start), dtype=torch.bool)
    expected[(learned - start).abs().argsort(descending=True)[:number]] = True
    chosen = torch.cat([as_mask(ticket.choices[n], p).flatten() for n, p in ParameterIndex(module).parameters.items()])
    assert torch.equal(chosen, expected)
    assert torch.equal(end[~expected], start[~expected])  # bit by bit
    assert (end[expected] != start[expected]).all()
    assert ticket.report()["entries"] == number


def test_the_second_phase_begins_at_the_start_without_momentum() -> None:
    """One step after the turn equals one step of a fresh optimizer from the start, on the chosen entries."""

    class Same(Module):  # the same batch in every step
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            torch.manual_seed(0)
            return nn.functional.cross_entropy(self.model(torch.randn(8, 6)), torch.arange(8) % 3)

    start = flat(Same())
    first = flat(fit_foreign([], module=Same(), max_epochs=-1, max_steps=1)[0])
    module, _ = fit_foreign([LotteryTicket(5, density=0.3)], module=Same(), max_epochs=-1, max_steps=6)
    moved = flat(module) != start
    assert moved.sum() == round(0.3 * len(start))
    assert torch.equal(flat(module)[moved], first[moved])


def test_dense_parameters_do_not_count() -> None:
    ticket = LotteryTicket(first_steps=4, density=0.1, dense=["4.*"])
    module, _ = fit_foreign([ticket], module=Module())
    counts = {n: int(as_mask(c, module.get_parameter("model." + n)).sum()) for n, c in ticket.choices.items()}
    assert counts["4.weight"] == 36
    assert counts["0.weight"] + counts["0.bias"] == round(0.1 * 84)


def test_the_delta_of_a_run_brings_its_weights_back(tmp_path: Path) -> None:
    for mode in ("replace", "add"):
        ticket = LotteryTicket(first_steps=4, density=0.2, delta=f"{mode}.safetensors", mode=mode)  # type: ignore[arg-type]
        module, _ = fit_foreign([ticket], module=Module(), default_root_dir=tmp_path)
        restored = SparseDelta.load(tmp_path / f"{mode}.safetensors").apply_(Module().model)
        for a, b in zip(restored.parameters(), module.model.parameters(), strict=True):
            if mode == "replace":
                assert torch.equal(a, b)
            else:
                torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_a_run_without_a_second_phase_says_so() -> None:
    with pytest.warns(UserWarning, match="22 steps are not more than first_steps = 100"):
        fit_foreign([LotteryTicket(first_steps=100)], module=Module())
    for wrong in (0, -1, 2.5, float("nan")):
        with pytest.raises(ConfigError, match="a share in"):
            LotteryTicket(wrong)
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        LotteryTicket(4, density=0)


@pytest.mark.parametrize("make", [lambda: LotteryTicket(4), lambda: LearnedGraft(4), lambda: HeadOffsets(4)])
@pytest.mark.parametrize("other", OTHERS)
def test_callbacks_that_mix_weights_are_refused(make: Any, other: Any) -> None:
    with pytest.raises(ConfigError, match="averages, prunes or unfreezes"):
        fit_foreign([make(), other()], module=Module())


def test_clipping_by_value_is_refused_where_there_is_nothing_to_clip() -> None:
    for callback in (LearnedGraft(4, density=0.1), StopBelowLoss(100.0)):
        fit_foreign([callback], module=Module(), gradient_clip_val=0.1)
        with pytest.raises(ConfigError, match="norm, beside"):
            fit_foreign([callback], module=Module(), gradient_clip_val=0.1, gradient_clip_algorithm="value")


def test_a_share_of_the_steps_is_the_same_as_their_number() -> None:
    by_share, by_number = (fit_foreign([LotteryTicket(n)], module=Module())[0] for n in (0.5, 11))
    assert torch.equal(flat(by_share), flat(by_number))


def test_the_closed_gradient_is_that_of_autograd() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    base = {n: p.detach().clone() for n, p in network.named_parameters()}
    change = {n: torch.randn_like(p) for n, p in base.items()}
    seed = {n: torch.rand_like(p) < 0.3 for n, p in base.items()}
    score = {n: torch.randn_like(p).requires_grad_() for n, p in base.items()}
    x, y = torch.randn(9, 5).double(), torch.arange(9) % 3
    weights = {n: base[n] + soft_mask(score[n], seed[n]) * change[n] for n in base}
    loss = nn.functional.cross_entropy(torch.func.functional_call(network, weights, x), y)
    names = list(base)
    expected = torch.autograd.grad(loss, [score[n] for n in names], retain_graph=True)
    by_weight = torch.autograd.grad(loss, [weights[n] for n in names])
    for name, wanted, gradient in zip(names, expected, by_weight, strict=True):
        torch.testing.assert_close(score_gradient(gradient, change[name], score[name], seed[name]), wanted)


def test_a_graft_that_does_not_learn_is_the_top_change() -> None:
    graft = LearnedGraft(first_steps=8, density=0.1, lr=0.0)
    module, _ = fit_foreign([graft], module=Module())
    start, learned = flat(Module()), dense(8)
    top = torch.zeros(len(start), dtype=torch.bool)
    top[(learned - start).abs().argsort(descending=True)[: round(0.1 * len(start))]] = True
    assert torch.equal(flat(module), torch.where(top, learned, start))


def test_a_graft_of_random_weights() -> None:
    mask = RandomElements(0.25, seed=3)
    module, _ = fit_foreign([LearnedGraft(8, lr=0.0, seed_mask=mask)], module=Module())
    chosen = mask.select(module)
    taken = torch.cat([as_mask(chosen[n], p).flatten() for n, p in ParameterIndex(module).parameters.items()])
    assert torch.equal(flat(module), torch.where(taken, dense(8), flat(Module())))


def test_a_graft_of_all_is_the_tuned_network() -> None:
    module, _ = fit_foreign([LearnedGraft(8, density=1.0, lr=0.0)], module=Module())
    assert torch.equal(flat(module), dense(8))


class Decoy(ForeignModule):
    """The first phase moves weights of inputs that are always zero furthest; the skill lies in the others."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        torch.manual_seed(0)
        self.model = nn.Linear(6, 3)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(torch.cat([x[:, :3], 0 * x[:, 3:]], 1)), y)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        pull = 2.0 if self.trainer.global_step < 44 else 0.0
        return self.loss(*batch) - pull * self.model.weight[:, 3:].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def test_a_learned_graft_finds_the_skill_that_the_largest_changes_miss(tmp_path: Path) -> None:
    losses = {}
    for lr in (0.0, 10.0):
        graft = LearnedGraft(44, density=9 / 21, lr=lr, bias=2.0, selection="mask.safetensors")
        module, trainer = fit_foreign([graft], module=Decoy(), max_epochs=8, default_root_dir=tmp_path)
        batches = list(trainer.datamodule.val_dataloader())
        losses[lr] = sum(float(module.loss(*batch).detach()) for batch in batches) / len(batches)
        if lr == 0.0:
            assert not graft.rounded["weight"][:, :3].any()
            assert graft.rounded["weight"][:, 3:].all()
    assert graft.rounded["weight"][:, :3].diagonal().sum() >= 2
    assert losses[10.0] < 0.75 * losses[0.0]
    saved = SavedSelection(str(tmp_path / "mask.safetensors")).select(Decoy())
    number = sum(int(as_mask(saved[n], p).sum()) for n, p in Decoy().model.named_parameters())
    assert number == graft.report()["entries"]


def test_a_graft_is_capped() -> None:
    graft = LearnedGraft(6, density=0.1, lr=1e4, bias=2.0, max_density=0.15)
    fit_foreign([graft], module=Module())
    assert graft.report()["entries"] == round(0.15 * 123)
