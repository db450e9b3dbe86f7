import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.metrics import GroupAccuracy

LOGITS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
TARGETS = torch.tensor([[0, 0], [0, 1], [1, 3], [0, 1], [0, 1]])  # group 1: one of three; group 2: no rows


@pytest.mark.parametrize(("over", "expected"), [("rows", 3 / 5), ("worst", 1 / 3)])
def test_by_hand(over, expected):
    metric = GroupAccuracy(4, over)
    metric.update(LOGITS[:2], TARGETS[:2])
    metric.update(LOGITS[2:], TARGETS[2:])
    assert metric.compute().item() == pytest.approx(expected)


def test_refuses():
    with pytest.raises(ConfigError, match="over"):
        GroupAccuracy(4, "best")
