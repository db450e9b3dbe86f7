"""Lines of JSON: read back by a strict reader, whatever numbers they hold."""

import json

import torch

from lit_ft.running.json_rows import json_line


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_json_lacks_are_null() -> None:
    scores = torch.tensor([[0.5, -torch.inf], [torch.inf, torch.nan]])
    rows = [scores, "ü\n", {"logits": [scores[0], (1, None)], "right": True}]
    found = [json.loads(json_line(row), parse_constant=refuse) for row in rows]
    assert found == [[[0.5, None], [None, None]], "ü\n", {"logits": [[0.5, None], [1, None]], "right": True}]


def test_whole_numbers_and_vectors_stay_what_they_are() -> None:
    assert json_line(torch.tensor([1, 2])) + json_line(torch.tensor([0.25])) == "[1, 2]\n[0.25]\n"
