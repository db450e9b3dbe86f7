import pytest
import torch

from lit_ft.connectivity.barrier import barrier
from lit_ft.core.errors import ConfigError
from lit_ft.metrics import Barrier


def test_a_quadratic_has_no_barrier_and_its_mirror_image_one():
    positions = torch.linspace(0, 1, 11, dtype=torch.float64)
    convex = (3 - 4 * positions) ** 2
    assert barrier(positions, convex).item() == pytest.approx(0)
    # -(3 - 4t)^2 against the line from -9 to -1: 16 t (1 - t), at most 4
    assert barrier(positions, -convex).item() == pytest.approx(4)


def test_sums_over_batches_of_rows():
    metric = Barrier([0.0, 0.5, 1.0])
    for number, losses in ((0, [1.0, 3.0]), (0, [5.0]), (1, [7.0]), (2, [1.0, 1.0])):
        metric.update(number, torch.tensor(losses))
    assert metric.compute().item() == pytest.approx(7 - (3 + 1) / 2)


@pytest.mark.parametrize("positions", [[0.0], [0.0, 0.5], [0.0, 0.7, 0.6, 1.0]])
def test_refuses(positions):
    with pytest.raises(ConfigError, match="positions"):
        Barrier(positions)
