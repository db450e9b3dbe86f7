import pytest
import torch
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.vision.aligned_gradients import agreement, pictures, towards


class Quadratic(nn.Module):
    """Scores -|x - c|^2 / 2: the mean gradient under noise is that without."""

    def __init__(self, centres):
        super().__init__()
        self.centres = centres

    def forward(self, x):
        return -(x[:, None] - self.centres).square().sum(-1) / 2


def test_a_linear_score_leads_to_the_edge_of_the_ball_along_its_weight():
    torch.manual_seed(0)
    network = nn.Linear(6, 3).double()
    x, targets = torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 0])
    weight = network.weight[targets].detach()
    for sigma in (0.0, 0.7):  # the gradient does not depend on the place
        moved = towards(network, x, targets, budget=1.5, sigma=sigma, steps=5)
        torch.testing.assert_close(moved, x + 1.5 * weight / weight.norm(dim=1, keepdim=True))


def test_no_farther_than_the_budget_and_to_a_peak_inside():
    centres = torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    moved = towards(Quadratic(centres), torch.zeros(2, 2), torch.tensor([0, 1]), budget=2.0, sigma=0.5, steps=200)
    torch.testing.assert_close(moved[0], centres[0], atol=0.3, rtol=0)
    torch.testing.assert_close(moved[1], torch.tensor([0.0, 2.0]), atol=0.2, rtol=0)
    assert moved[1].norm() <= 2 + 1e-5


def test_agreement_counts_where_the_network_was_convinced():
    network = Quadratic(torch.tensor([[0.0], [1.0]]))
    judge = Quadratic(torch.tensor([[0.0], [3.0]]))
    moved, targets = torch.tensor([[0.2], [0.9], [1.8], [0.9]]), torch.tensor([0, 1, 1, 0])
    assert agreement(network, judge, moved, targets) == pytest.approx(2 / 3)


def test_pictures_show_every_row_twice():
    figure = pictures(torch.zeros(3, 8, 8), torch.ones(3, 8, 8), ["0 to 1", "2 to 3", "4 to 5"])
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["0 to 1", "2 to 3", "4 to 5"]


@pytest.mark.parametrize(("name", "value"), [("budget", 0.0), ("steps", 0), ("sigma", -1.0)])
def test_refuses(name, value):
    with pytest.raises(ConfigError, match=name):
        towards(nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0]), **{"budget": 1.0, name: value})
