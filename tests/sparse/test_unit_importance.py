"""Importance of units against gates that are really there; signs that cancel in a sum do not cancel here."""

import pytest
import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import Fisher, UnitImportance
from lit_ft.running.processes import run_ranks


def llama(**sizes: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    usual = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **{**usual, **sizes}))


def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return module(input_ids=batch, labels=batch).loss


def by_gates(network: nn.Module, batches: list[torch.Tensor], signed: bool = False) -> torch.Tensor:
    """|dL/dg| for a gate on each feed-forward unit of block 1, normalised."""
    gate = torch.ones(24, requires_grad=True)
    handle = network.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: (inputs[0] * gate,))
    slopes = torch.stack([torch.autograd.grad(loss(network, batch), gate)[0] for batch in batches])
    handle.remove()
    total = slopes.sum(0).abs() if signed else slopes.abs().sum(0)
    return ((total - total.mean()) / total.std()).tanh().abs()


def test_it_is_that_of_gates() -> None:
    network = llama()
    batches = [torch.randint(50, (2, 9)) for _ in range(4)]
    found = UnitImportance(batches, loss=loss).measure(network)
    rows, columns = found["model.layers.1.mlp.up_proj.weight"], found["model.layers.1.mlp.down_proj.weight"]
    assert rows.shape == (24, 1)
    assert columns.shape == (1, 24)
    assert torch.equal(rows.flatten(), columns.flatten())
    expected = by_gates(network, batches)
    torch.testing.assert_close(rows.flatten(), expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(expected, by_gates(network, batches, signed=True), atol=0.05)
    assert all(value.min() >= 0 and value.max() < 1 for value in found.values())
    assert len(found) == 9
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_heads() -> None:
    network = llama()
    found = UnitImportance([torch.randint(50, (2, 9))], unit="head", loss=loss).measure(network)
    query = found["model.layers.2.self_attn.q_proj.weight"].flatten()
    assert torch.equal(query, query.view(4, 4)[:, :1].expand(4, 4).flatten())  # one number a head
    assert set(found) == {n for n in ParameterIndex(network).entries if "q_proj" in n or "o_proj" in n}


def four_batches() -> list[Tensor]:
    return list(torch.randint(50, (4, 2, 9), generator=torch.Generator().manual_seed(1)))


def measured(mine: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, bool | Tensor]]:
    network = llama()
    return UnitImportance(mine, loss=loss).measure(network), Fisher(0.1, mine, loss=loss).select(network)


def one_rank() -> tuple[dict[str, Tensor], dict[str, bool | Tensor]]:
    torch.distributed.init_process_group("gloo")
    found = measured(four_batches()[torch.distributed.get_rank() :: 2])
    torch.distributed.destroy_process_group()
    return found


def test_two_ranks_with_half_of_the_batches_each_agree_on_all_of_them() -> None:
    first, second = run_ranks(one_rank, 2)
    shares, chosen = measured(four_batches())
    for name, share in shares.items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(first[0][name], share, atol=1e-4, rtol=1e-3)
    differ = 0
    for name, choice in chosen.items():
        mine, other, whole = (torch.as_tensor(found) for found in (first[1][name], second[1][name], choice))
        assert torch.equal(mine, other)
        differ += int((mine != whole).sum())
    assert differ <= 4, "rounding may swap entries at the threshold"


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        UnitImportance([], loss=loss).measure(llama())
    with pytest.raises(ConfigError, match="num_batches"):
        UnitImportance([], num_batches=0)
    with pytest.raises(ConfigError, match="head or feed_forward"):
        UnitImportance([], unit="layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="block 0 has one"):
        UnitImportance([torch.randint(50, (2, 9))], unit="head", loss=loss).measure(llama(num_attention_heads=1))
