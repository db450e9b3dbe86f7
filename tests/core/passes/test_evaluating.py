"""Modes come back child by child, wherever a network is run in evaluation mode for a while."""

from typing import Any

import pytest
import torch
from torch import nn

from lit_ft.core.batch_norm import update_batch_norm
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.core.passes.second_pass import without_trace
from lit_ft.methods import SentenceEmbedding
from lit_ft.models import causal_lm
from lit_ft.preference.reference import AdapterOff
from lit_ft.tokens.network import readout
from lit_ft.tokens.packing import check_packing
from lit_ft.vision.aligned_gradients import towards
from lit_ft.vision.smoothed_classifier import SmoothedClassifier

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip


def modes(network: nn.Module) -> list[bool]:
    return [child.training for child in network.modules()]


def test_all_are_in_evaluation_mode_inside_and_as_before_outside() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)))
    network[1].eval()
    before = modes(network)
    assert set(before) == {True, False}
    with evaluating(network):
        assert not any(modes(network))
    assert modes(network) == before
    with pytest.raises(RuntimeError), evaluating(network):
        network(torch.zeros(1, 5))
    assert modes(network) == before
    with without_trace(None, network):
        network.eval()
    assert modes(network) == before
    update_batch_norm(network, [torch.randn(4, 3)])
    assert modes(network) == before


def test_a_frozen_part_stays_in_evaluation_mode() -> None:
    from lit_ft.core.network import Network

    network: Any = causal_lm(Network(config=CONFIG)).train()
    network.model.layers[0].eval()
    before = modes(network)
    ids = torch.randint(40, (2, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "weights": torch.ones(2, 6)}
    readout(network, batch)
    assert modes(network) == before
    check_packing(network, 40)
    assert modes(network) == before
    AdapterOff().log_probs(network, batch)
    assert modes(network) == before


def test_tools_that_run_a_network_leave_each_part_in_its_mode() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)))
    network[2].eval()
    before = modes(network)
    x = torch.randn(2, 4)
    SmoothedClassifier(network, n=20)(x)
    assert modes(network) == before
    towards(network, x, torch.tensor([0, 1]), budget=1.0, steps=2)
    assert modes(network) == before


def test_encoding_leaves_a_frozen_layer_in_evaluation_mode() -> None:
    method = SentenceEmbedding({"config": {**CONFIG, "vocab_size": 300, "tokenizer": "bytes"}}, pooling="mean")
    method.configure_model()
    network: Any = method.network
    network.train().encoder.layers[0].eval()
    before = modes(network)
    method.encode(["one", "two"])
    assert modes(network) == before
    assert set(before) == {True, False}
