"""Selections meet their budget, say which entries, and refuse what they cannot mean."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import (
    And,
    Fisher,
    Heads,
    Layers,
    LearnedScore,
    Names,
    Not,
    Or,
    RandomElements,
    RandomHalf,
    SavedSelection,
    Selection,
    TopChange,
    TopMagnitude,
    TopUnits,
    as_mask,
    count,
    overlap,
    save_selection,
)

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}


def llama(seed: int = 0, layers: int = 4) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = SIZES | {"num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, tie_word_embeddings=True, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=4, n_head=4, n_positions=16, **ids))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3))


def flat(selection: Selection, module: nn.Module, base: nn.Module | None = None) -> torch.Tensor:
    chosen = selection.select(module, base)
    return torch.cat([as_mask(chosen[n], p).flatten() for n, p in ParameterIndex(module).parameters.items()])


def values(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in ParameterIndex(module).parameters.values()])


@pytest.mark.parametrize("density", [0.01, 0.13, 0.5, 1.0])
def test_top_change_is_the_sorted_top(density: float) -> None:
    base, tuned = llama(0), llama(1)
    change = (values(tuned) - values(base)).abs()
    number = round(density * len(change))
    expected = torch.zeros(len(change), dtype=torch.bool)
    expected[change.argsort(descending=True)[:number]] = True
    assert torch.equal(flat(TopChange(density), tuned, base), expected)
    assert torch.equal(flat(TopChange(density, tuned=tuned, base=base), base), expected)  # sources as arguments


def test_top_change_per_tensor_meets_each_budget() -> None:
    base, tuned = llama(0), llama(1)
    index = ParameterIndex(tuned)
    for name, choice in TopChange(0.1, scope="tensor").select(tuned, base).items():
        parameter = index[name].parameter
        assert as_mask(choice, parameter).sum() == round(0.1 * parameter.numel()), name


def test_ties_are_cut_so_that_the_budget_is_met() -> None:
    base, tuned = small(), small()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0).copy_(parameter.round())
        for parameter in base.parameters():
            parameter.zero_()
    number = len(values(base))
    for density in (0.1, 0.37, 0.9):
        mask = flat(TopChange(density), tuned, base)
        assert mask.sum() == round(density * number)
        change = values(tuned).abs()
        assert change[mask].min() >= change[~mask].max()
        assert torch.equal(mask, flat(TopChange(density), tuned, base))


def test_top_magnitude_largest_and_smallest() -> None:
    network = small()
    order = values(network).abs().argsort()
    for smallest, expected in ((True, order[:20]), (False, order[-20:])):
        mask = flat(TopMagnitude(20 / len(order), smallest=smallest), network)
        assert set(mask.nonzero().flatten().tolist()) == set(expected.tolist())


def test_a_score_that_is_no_number_is_refused() -> None:
    network = small()
    with torch.no_grad():
        network[0].weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"NaN in 0\.weight"):
        TopMagnitude(0.1).select(network)


def test_fisher_is_the_mean_squared_gradient() -> None:
    network = small()
    batches = [(torch.randn(1, 7), torch.tensor([i % 3])) for i in range(12)]

    def loss(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    total = torch.zeros(len(values(network)))
    for batch in batches:
        gradient = torch.autograd.grad(loss(network, batch), list(network.parameters()))
        total += torch.cat([g.flatten() for g in gradient]) ** 2
    network[0].weight.requires_grad_(False)
    network[0].weight.grad = None
    selection = Fisher(0.2, batches, num_batches=12, loss=loss)
    mask = flat(selection, network)
    assert set(mask.nonzero().flatten().tolist()) == set(total.argsort(descending=True)[: int(mask.sum())].tolist())
    assert not network[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def category_share(network: nn.Module, selection: Selection, category: str, block: int | None) -> tuple[int, int]:
    index, chosen = ParameterIndex(network), selection.select(network)
    picked = [
        e for e in index.values() if e.category == category and not e.bias and (block is None or e.block == block)
    ]
    units = sum(len(e.parts) or 1 for e in picked)
    parts = 0.0
    for entry in picked:
        share = as_mask(chosen[entry.name], entry.parameter).float().mean().item()
        parts += share * (len(entry.parts) or 1)
    return round(parts), units


@pytest.mark.parametrize("make", [llama, gpt2])
def test_random_half_takes_half_of_every_block_and_category(make: object) -> None:
    network = make()  # type: ignore[operator]
    for seed in range(3):
        half = RandomHalf(seed)
        for block in range(4):
            assert category_share(network, half, "attention", block) == (2, 4)
            taken, units = category_share(network, half, "feed_forward", block)
            assert taken in ((1, 2) if units == 3 else (1,))
        taken, units = category_share(network, half, "feed_forward", None)
        assert taken * 2 == units
        taken, units = category_share(network, half, "norm", None)
        assert taken == units // 2
    draws = [flat(RandomHalf(0).redrawn(i), network) for i in range(3)]
    assert torch.equal(draws[0], flat(RandomHalf(0), network))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_a_random_selection_draws_no_global_number() -> None:
    network = llama()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = flat(RandomHalf(), network), flat(RandomElements(0.3), network)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first, (flat(RandomHalf(), network), flat(RandomElements(0.3), network)), strict=True)
    )


def test_random_elements_have_the_density_in_each_tensor() -> None:
    network = llama()
    chosen = RandomElements(0.25, patterns=["*mlp*"], others=True).select(network)
    for name, parameter in ParameterIndex(network).parameters.items():
        if "mlp" in name:
            assert as_mask(chosen[name], parameter).sum() == round(0.25 * parameter.numel())
        else:
            assert chosen[name] is True


def test_layers_by_number_depth_and_role() -> None:
    network = llama()
    chosen = Layers(start=2, head=True).select(network)
    assert chosen["model.layers.2.mlp.up_proj.weight"] is True
    assert chosen["model.layers.1.mlp.up_proj.weight"] is False
    assert chosen["model.norm.weight"] is True
    assert chosen["model.embed_tokens.weight"] is False
    some = [
        name for name, choice in Layers(depth=(0.0, 0.4), roles=["feed_forward.*"]).select(network).items() if choice
    ]
    assert some == [f"model.layers.{i}.mlp.{part}_proj.weight" for i in (0, 1) for part in ("gate", "up", "down")]
    assert [n for n, c in Layers(blocks=[-1], roles=["norm"]).select(network).items() if c] == [
        "model.layers.3.input_layernorm.weight",
        "model.layers.3.post_attention_layernorm.weight",
    ]
    fused = Layers(roles=["attention.query"]).select(gpt2())
    mask = fused["transformer.h.0.attn.c_attn.weight"]
    assert mask[:, :16].all()
    assert not mask[:, 16:].any()


def test_heads_are_query_rows_and_output_columns() -> None:
    chosen = Heads({1: [2]}).select(llama())
    query, output = (chosen[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qo")
    assert query[8:12].all()
    assert query.sum() == 4 * 16
    assert output[:, 8:12].all()
    assert output.sum() == 4 * 16
    with pytest.raises(ConfigError, match="4 heads"):
        Heads({1: [4]}).select(llama())


@pytest.mark.parametrize("unit", ["head", "feed_forward"])
def test_top_units_find_the_unit_that_changed(unit: str) -> None:
    base, tuned = llama(), llama()
    with torch.no_grad():
        block = tuned.model.layers[2]
        if unit == "head":
            block.self_attn.q_proj.weight[4:8] += 0.1
            block.self_attn.o_proj.weight[:, 4:8] += 0.1
        else:
            block.mlp.up_proj.weight[5] += 0.1
            block.mlp.down_proj.weight[:, 5] += 0.1
    units = 16 if unit == "head" else 4 * 32
    mask = flat(TopUnits(TopChange(0.1), 1 / units, unit), tuned, base)  # type: ignore[arg-type]
    change = values(tuned) != values(base)
    assert (mask | ~change).all()
    assert mask.sum() == (4 * 16 * 2 if unit == "head" else 16 * 3)


def test_combinations_are_those_of_sets() -> None:
    network = llama()
    a, b = RandomElements(0.3, seed=1), RandomElements(0.6, seed=2)
    names = Names(["*mlp*"])
    assert torch.equal(flat(a & b, network), flat(a, network) & flat(b, network))
    assert torch.equal(flat(a | names, network), flat(a, network) | flat(names, network))
    assert torch.equal(flat(~a, network), ~flat(a, network))
    assert torch.equal(flat(~(a & names), network), flat(Or([Not(a), Not(names)]), network))
    assert not flat(And([a, ~a]), network).any()
    everything = (a | ~a).select(network)
    assert all(choice is True for choice in everything.values())  # whole tensors, not masks of ones


def test_overlap_and_count() -> None:
    network = llama()
    a, b = Names(["*mlp*"]).select(network), Names(["*mlp.up*", "*norm*"]).select(network)
    up, norm = 4 * 32 * 16, 9 * 16
    assert count(a, network) == (3 * up, len(values(network)))
    assert overlap(a, b, network) == pytest.approx(up / (3 * up + norm))


def test_a_saved_selection_comes_back_and_another_network_is_refused(tmp_path: Path) -> None:
    network = llama()
    selection = (
        (RandomElements(0.01) & Names(["*mlp*"])) | RandomElements(0.4, patterns=["*norm*"]) | Names(["*q_proj*"])
    )
    path = save_selection(tmp_path / "half.safetensors", selection.select(network), network)
    assert torch.equal(flat(SavedSelection(str(path)), llama(5)), flat(selection, network))
    with pytest.raises(ConfigError, match="another network"):
        SavedSelection(path).select(llama(layers=3))


def test_learned_scores_of_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = small()
    scores = {"0.weight": torch.randn(9, 7), "2.bias": torch.tensor([-1.0, 9.0, -5.0])}
    save_file(scores, tmp_path / "scores.safetensors")
    chosen = LearnedScore(tmp_path / "scores.safetensors", 1 / 66).select(network)
    assert chosen["2.bias"].tolist() == [False, True, False]
    assert not any(choice for name, choice in chosen.items() if name != "2.bias")


@pytest.mark.parametrize("density", [0.0, 1.5, -1.0])
def test_budgets_outside_of_zero_and_one_are_refused(density: float) -> None:
    for make in (TopChange, TopMagnitude, RandomElements):
        with pytest.raises(ConfigError, match=r"\(0, 1\]"):
            make(density)


def test_a_budget_that_rounds_to_nothing_is_refused_and_says_what_one_entry_is() -> None:
    for make in (RandomElements, TopMagnitude):
        with pytest.raises(ConfigError, match=r"1 of 27 entries is 0\.037"):
            make(0.01, patterns=["2.weight"]).select(small())
    with pytest.raises(ConfigError, match=r"1 of 63 entries is 0\.016"):  # each tensor by itself; this is the largest
        RandomElements(0.007).select(small())
    with pytest.raises(ConfigError, match=r"1 of 16 units \(head\)"):
        TopUnits(TopMagnitude(1.0), 0.01).select(llama())
    assert count(RandomElements(1 / 63).select(small()), small())[0] == 1


def test_bad_input_names_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"0\.weight of shape"):
        TopChange(0.1, base=nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 3))).select(small())
    with pytest.raises(ConfigError, match="list of repeated blocks"):
        RandomHalf().select(small())
    with pytest.raises(ConfigError, match=r"feed_forward\.in"):
        Layers(roles=["feedforward.in"])
    with pytest.raises(ConfigError, match="weights to compare"):
        TopChange(0.1).select(small())
