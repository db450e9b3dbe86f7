"""A delta comes back bit by bit, is as small as it can be, and refuses another base."""

import copy
from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import (
    LearnedScore,
    Names,
    Not,
    RandomElements,
    RandomHalf,
    SavedSelection,
    TopChange,
    as_mask,
)
from lit_ft.sparse.graft import graft
from lit_ft.sparse.sparse_delta import Mode, SparseDelta


def llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes)).to(dtype)


def tuned_from(base: nn.Module, step: float = 1e-3) -> nn.Module:
    tuned = copy.deepcopy(base)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(step * torch.randn_like(parameter))
    return tuned


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("density", [1e-4, 0.01, 0.1, 0.5, 1.0])
def test_replace_is_bit_exact(tmp_path: Path, dtype: torch.dtype, density: float) -> None:
    base = llama(dtype=dtype)
    tuned = tuned_from(base)
    selection = TopChange(density)
    path = SparseDelta.between(base, tuned, selection).save(tmp_path / "delta.safetensors")
    restored = SparseDelta.load(path).apply_(copy.deepcopy(base))
    assert equal(restored, graft(base, tuned, selection))
    if density == 1.0:
        assert equal(restored, tuned)


def test_without_a_selection_it_is_all_that_differs(tmp_path: Path) -> None:
    base = llama(dtype=torch.bfloat16)
    tuned = tuned_from(base)
    delta = SparseDelta.load(SparseDelta.between(base, tuned).save(tmp_path / "d.safetensors"))
    assert equal(delta.apply_(copy.deepcopy(base)), tuned)
    assert delta.numel < sum(p.numel() for p in base.parameters())  # rounding in bfloat16 left some as they were


def test_size_at_one_percent_is_near_the_entropy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Linear(1000, 1000)
    tuned = tuned_from(base)
    number = sum(p.numel() for p in base.parameters())
    path = SparseDelta.between(base, tuned, TopChange(0.01)).save(tmp_path / "delta.safetensors")
    bits = number * -(0.01 * log2(0.01) + 0.99 * log2(0.99)) + 0.01 * number * 32
    assert path.stat().st_size < 1.1 * bits / 8
    positions = path.stat().st_size - 0.01 * number * 4
    assert positions < 1.3 * (bits - 0.01 * number * 32) / 8


@pytest.mark.parametrize("selection", [RandomElements(0.3, seed=4), RandomHalf(seed=2)])
def test_a_random_selection_is_stored_as_its_seed(tmp_path: Path, selection: RandomElements | RandomHalf) -> None:
    base = llama()
    tuned = tuned_from(base)
    delta = SparseDelta.between(base, tuned, selection)
    path = delta.save(tmp_path / "delta.safetensors")
    assert path.stat().st_size < 4 * delta.numel + 12_000  # no positions
    assert equal(SparseDelta.load(path, base).apply_(copy.deepcopy(base)), graft(base, tuned, selection))
    with pytest.raises(ConfigError, match="seed of a random draw"):
        SparseDelta.load(path)


def test_another_base_is_refused() -> None:
    base = llama(0)
    delta = SparseDelta.between(base, tuned_from(base), TopChange(0.01))
    with pytest.raises(ConfigError, match="other weights in"):
        delta.apply_(llama(1))
    applied = delta.apply_(copy.deepcopy(base))
    with pytest.raises(ConfigError, match="unchanged"):
        delta.apply_(applied)
    with pytest.raises(ConfigError, match="without"):
        delta.apply_(nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_other_entry_of_a_large_base_is_enough(dtype: torch.dtype) -> None:
    base = nn.Linear(300, 200, bias=False).to(dtype)  # more entries than are looked at one by one
    delta = SparseDelta.between(base, tuned_from(base), TopChange(0.01))
    other = copy.deepcopy(base)
    other.weight.data[77, 5] *= 1.01
    with pytest.raises(ConfigError, match="other weights in weight"):
        delta.apply_(other)
    delta.apply_(base)


def test_choices_by_hand_go_by_any_name_of_the_network() -> None:
    base, tuned = llama(0), llama(1)
    tied = {"lm_head.weight": True}  # its first name is model.embed_tokens.weight
    for changed in (graft(base, tuned, tied), SparseDelta.between(base, tuned, tied).apply_(copy.deepcopy(base))):
        assert torch.equal(changed.lm_head.weight, tuned.lm_head.weight)
        assert torch.equal(changed.model.norm.weight, base.model.norm.weight)
    for use in (graft, SparseDelta.between):
        with pytest.raises(ConfigError, match=r"model\.norm\.weight"):
            use(base, tuned, {"model.nrom.weight": True})


@pytest.mark.parametrize("use", [graft, SparseDelta.between])
@pytest.mark.parametrize("mask", [torch.ones(2, dtype=torch.bool), torch.ones(4, 4)])
def test_masks_by_hand_of_another_shape_or_type_are_refused(use: Callable[..., Any], mask: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"boolean mask of shape \(4, 4\)"):
        use(nn.Linear(4, 4), nn.Linear(4, 4), {"weight": mask})


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
@pytest.mark.parametrize("mode", ["replace", "add"])
def test_differences_are_as_wide_as_the_weights(tmp_path: Path, mode: Mode, dtype: torch.dtype) -> None:
    base = nn.Linear(50, 50, dtype=dtype)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.weight.add_(1j * base.weight.abs() if dtype.is_complex else 1e-9 * torch.randn_like(base.weight))
    largest = (tuned.weight - base.weight).abs().argmax()
    (chosen,) = TopChange(1 / 2500, patterns=["weight"]).select(tuned, base)["weight"].flatten().nonzero().flatten()
    assert chosen == largest
    path = SparseDelta.between(base, tuned, mode=mode).save(tmp_path / "delta.safetensors")
    restored = SparseDelta.load(path).apply_(copy.deepcopy(base))
    torch.testing.assert_close(restored.weight, tuned.weight, rtol=1e-6 if dtype == torch.complex64 else 1e-15, atol=0)
    if mode == "add":
        twice = SparseDelta.sum([SparseDelta.load(path)] * 2).apply_(base)
        assert (twice.weight - tuned.weight).abs().argmax() == largest


def test_a_fresh_head_that_is_replaced_as_a_whole_may_differ() -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(0)
        body = nn.Linear(4, 4)
        torch.manual_seed(seed)
        return nn.Sequential(body, nn.Linear(4, 2))

    tuned = tuned_from(network(1))
    delta = SparseDelta.between(network(1), tuned, TopChange(0.2, patterns=["0.*"]) | Names(["1.*"]))
    other = delta.apply_(network(2))
    assert torch.equal(other[1].weight, tuned[1].weight)


def test_sum_adds_tasks() -> None:
    base = llama()
    tasks = [tuned_from(base, 1e-2), tuned_from(base, -2e-2)]
    choices = [TopChange(0.1), Names(["*mlp*"]) | TopChange(0.02)]
    deltas = [SparseDelta.between(base, t, c, mode="add") for t, c in zip(tasks, choices, strict=True)]
    both = SparseDelta.sum(deltas).apply_(copy.deepcopy(base))
    expected = copy.deepcopy(base)
    with torch.no_grad():
        for task, choice in zip(tasks, choices, strict=True):
            grafted = graft(base, task, choice)
            for p, q, r in zip(expected.parameters(), grafted.parameters(), base.parameters(), strict=True):
                p.add_(q - r)
    for p, q in zip(both.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="mode add"):
        SparseDelta.sum([SparseDelta.between(base, tasks[0])])
    other = llama(1)
    elsewhere = SparseDelta.between(other, tuned_from(other), mode="add")
    with pytest.raises(ConfigError, match="two bases"):
        SparseDelta.sum([deltas[0], elsewhere])


def test_deltas_and_their_sum_are_those_of_peft() -> None:
    """Pruning by magnitude and the sum of two tasks, as in ``magnitude_prune`` of peft 0.21.2."""
    from peft.utils.merge_utils import magnitude_prune

    base = llama()
    tasks = [tuned_from(base, 1e-2), tuned_from(base, -2e-2)]
    selection = TopChange(0.25, scope="tensor")
    deltas = [SparseDelta.between(base, task, selection, mode="add") for task in tasks]
    both = SparseDelta.sum(deltas).apply_(copy.deepcopy(base))
    for name, start in base.named_parameters():
        changes = [(task.get_parameter(name) - start).detach() for task in tasks]
        expected = start + magnitude_prune(changes, torch.ones(2), density=0.25)
        torch.testing.assert_close(both.get_parameter(name), expected, atol=1e-6, rtol=0)


def test_graft_of_all_none_and_some() -> None:
    base, tuned = llama(0), llama(1)
    everything = Names(["*"])
    assert equal(graft(base, tuned, everything), tuned)
    assert equal(graft(base, tuned, Not(everything)), base)
    some = graft(base, tuned, Names(["*mlp*"]))
    for name, parameter in some.named_parameters():
        source = tuned if "mlp" in name else base
        assert torch.equal(parameter, source.get_parameter(name))
    assert some.lm_head.weight is some.model.embed_tokens.weight


def test_a_delta_goes_into_a_wrapped_network() -> None:
    import lightning.pytorch as pl

    base = llama()
    tuned = tuned_from(base)
    delta = SparseDelta.between(base, tuned, TopChange(0.05))

    class Wrapped(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(base)

    assert equal(delta.apply_(Wrapped()), graft(base, tuned, TopChange(0.05)))


def test_tuned_weights_from_files(tmp_path: Path) -> None:
    base = llama()
    tuned = tuned_from(base)
    tuned.save_pretrained(tmp_path / "hf")
    state = {f"network.{k}": v for k, v in tuned.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    for source in (str(tmp_path / "hf"), tmp_path / "hf", tmp_path / "last.ckpt", tmp_path):
        assert equal(graft(base, source, Names(["*"])), tuned)
    by_file, by_module = TopChange(0.1, tuned=tmp_path / "hf").select(base), TopChange(0.1).select(tuned, base)
    assert all(torch.equal(as_mask(by_file[n], p), as_mask(by_module[n], p)) for n, p in base.named_parameters())
    with pytest.raises(ConfigError, match="weights without"):
        graft(base, {"other": torch.ones(1)}, Names(["*"]))  # type: ignore[arg-type]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x.safetensors", tmp_path / "x.ckpt"
    for file in broken:
        file.write_bytes(b"nothing of the kind")
    for file in (broken[0], tmp_path):
        with pytest.raises(ConfigError, match=r"SparseDelta\.save"):
            SparseDelta.load(file)
        with pytest.raises(ConfigError, match="save_selection"):
            SavedSelection(file).select(llama())
    torch.save({"epoch": 3}, tmp_path / "other.ckpt")
    for file in (*broken, tmp_path / "other.ckpt"):
        for source in (TopChange(0.1, tuned=file), LearnedScore(file, 0.1)):
            with pytest.raises(ConfigError, match=r"a whole \.safetensors file, or a checkpoint"):
                source.select(llama())


def test_a_copy_of_what_was_tied_is_refused() -> None:
    """The head would go on with the old embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = llama()
    delta = SparseDelta.between(base, tuned_from(base), Names(["model.embed_tokens.*"]))
    untied = LlamaForCausalLM(LlamaConfig(**base.config.to_dict() | {"tie_word_embeddings": False}))
    untied.load_state_dict(base.state_dict())
    with pytest.raises(ConfigError, match=r"lm_head\.weight, a copy of model\.embed_tokens\.weight"):
        delta.apply_(untied)
    with torch.no_grad():
        untied.lm_head.weight.add_(1)
    delta.apply_(untied)  # a head of its own is not the delta's business
