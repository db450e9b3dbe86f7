"""Two sparse deltas of MiniLM, each a file, put together on one encoder."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_ft.core.network import Network
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import TopChange, overlap
from lit_ft.sparse.sparse_delta import SparseDelta


@pytest.mark.real
def test_two_tasks_on_minilm(tmp_path: Path) -> None:
    from lit_ft.models.build import sequence_classifier

    torch.manual_seed(0)
    base = sequence_classifier(Network(path="packaged:all-MiniLM-L6-v2"), 2)
    deltas, tuned = [], []
    for seed in (1, 2):
        network: nn.Module = copy.deepcopy(base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1e-3 * torch.randn_like(parameter))
        path = SparseDelta.between(base, network, TopChange(0.01), mode="add").save(tmp_path / f"{seed}.safetensors")
        assert path.stat().st_size < 0.014 * sum(4 * p.numel() for p in base.parameters())
        deltas.append(SparseDelta.load(path))
        tuned.append(network)
    both = SparseDelta.sum(deltas).apply_(copy.deepcopy(base))
    index = ParameterIndex(base)
    changed = 0
    for name, parameter in ParameterIndex(both).parameters.items():
        start = index[name].parameter
        expected = start.detach().clone()
        for delta, network in zip(deltas, tuned, strict=True):
            if name in delta.choices:
                mask = delta.choices[name]
                expected[mask] += (ParameterIndex(network)[name].parameter - start)[mask]
        torch.testing.assert_close(parameter, expected, atol=1e-7, rtol=1e-5)
        changed += int((parameter != start).sum())
    total = sum(p.numel() for p in index.parameters.values())
    assert 0.019 * total < changed < 0.02 * total + 2
    shared = overlap(deltas[0].choices, deltas[1].choices, base)
    assert shared == pytest.approx(0.01 / 1.99, rel=0.2)  # masks of unrelated tasks meet by chance
