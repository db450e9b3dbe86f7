"""What regions share, counted one entry at a time."""

import torch
from torch import nn

from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection import RandomElements, as_mask, shared_parts


def test_shares_are_counted_entry_by_entry() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    regions = {
        "half": RandomElements(0.5, seed=1).select(network),
        "few": RandomElements(0.2, seed=2).select(network),
        "first": {"0.weight": True, "0.bias": torch.tensor([True, False, True])},  # the rest is absent
        "none": {},
    }
    entries = {}
    for task, region in regions.items():
        places = [
            (name, place)
            for name, parameter in ParameterIndex(network).parameters.items()
            for place, chosen in enumerate(as_mask(region.get(name, False), parameter).flatten().tolist())
            if chosen
        ]
        entries[task] = set(places)
    assert [len(entries[task]) for task in ("first", "none")] == [14, 0]
    found = shared_parts(regions, network)
    for a in regions:
        for b in regions:
            expected = sum(place in entries[b] for place in entries[a]) / len(entries[a]) if entries[a] else 0.0
            assert found[a][b] == expected
    assert found["half"]["first"] != found["first"]["half"]
