"""Numbers over task sequences, against hand computation."""

import math

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.inside.continual import ContinualScores, at_matched_loss, matched_levels


def test_three_tasks_by_hand() -> None:
    metric = ContinualScores(untrained=[0.1, 0.2, 0.3])
    for row in ([0.9, 0.4, 0.3], [0.95, 0.8, 0.5], [0.6, 0.7, 0.85]):
        metric.update(row)
    scores = {key: float(value) for key, value in metric.compute().items()}
    assert scores["average"] == pytest.approx((0.6 + 0.7 + 0.85) / 3)
    assert scores["backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert scores["forgetting"] == pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2)  # from the best, not the first
    assert scores["forward_transfer"] == pytest.approx(((0.4 - 0.2) + (0.5 - 0.3)) / 2)


def test_scores_of_a_sequence_that_is_not_over() -> None:
    metric = ContinualScores()
    metric.update([0.9, 0.0, 0.0])
    assert {k: float(v) for k, v in metric.compute().items()} == {"average": 0.9}
    metric.update(torch.tensor([0.5, 0.7, 0.0]))
    assert float(metric.compute()["average"]) == pytest.approx(0.6)
    assert float(metric.compute()["forgetting"]) == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="each of 3 tasks"):
        metric.update([1.0])


def test_a_slower_copy_of_a_run_forgets_the_same_at_matched_loss() -> None:
    """Forgetting as a function of the new loss is equal; at equal steps the slower run looks better, and is not."""
    fast = [(2.0 - 0.1 * i, 1.0 + 0.05 * i) for i in range(11)]
    slow = [(2.0 - 0.05 * i, 1.0 + 0.025 * i) for i in range(11)]
    assert slow[-1][1] < fast[-1][1]
    levels = matched_levels(*[[new for new, _ in run] for run in (fast, slow)])
    assert min(levels) == pytest.approx(1.5)
    for level in levels:
        a, b = (at_matched_loss(*zip(*run, strict=True), level) for run in (fast, slow))
        assert a == pytest.approx(b) == pytest.approx(1.0 + (2.0 - level) / 2)
    assert math.isnan(at_matched_loss([2.0, 1.9], [1.0, 1.1], 1.0))
