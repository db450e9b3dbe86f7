import pytest
import torch
from torch.nn import functional as F

from lit_ft.vision.neighbours import leave_one_out

TAU = 0.3


def rows(n=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=-1)
    return z, torch.arange(n) % 3


def loss(z, y, k, keys=None):
    keys = z if keys is None else keys
    return leave_one_out(z, keys, y[:, None] == y[None], torch.eye(len(z), dtype=torch.bool), k, TAU)


def by_hand(z, y, k):
    found = []
    for i in range(len(z)):
        others = sorted((j for j in range(len(z)) if j != i), key=lambda j: -float(z[i] @ z[j]))
        near = others[:k]
        if not any(y[j] == y[i] for j in near):
            near.append(next(j for j in others if y[j] == y[i]))
        weight = {j: float(torch.exp(z[i] @ z[j] / TAU)) for j in near}
        own = sum(w for j, w in weight.items() if y[j] == y[i])
        found.append(-torch.tensor(own / sum(weight.values())).log().item())
    return found


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_by_hand(k):
    z, y = rows()
    assert loss(z, y, k).tolist() == pytest.approx(by_hand(z, y, k), abs=1e-6)


def test_all_neighbours_give_neighbourhood_components():
    """With k = n - 1 it is the leave-one-out soft nearest-neighbour loss."""
    z, y = rows()
    scores = (z @ z.T / TAU).masked_fill(torch.eye(9, dtype=torch.bool), -torch.inf)
    shares = scores.softmax(1)
    expected = -(shares * (y[:, None] == y[None])).sum(1).log()
    torch.testing.assert_close(loss(z, y, 8), expected)


def test_neighbours_of_one_label_cost_nothing_and_a_lonely_row_is_left_out():
    z = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 1, 2]]
    y = torch.tensor([0, 0, 1, 1, 2])
    assert loss(z, y, 1).tolist() == [0.0] * 5
    y[1] = 2  # now row 0 is alone with its label, and row 1 has the far row 4
    assert (loss(z, y, 1) > 0).tolist()[:4] == [False, True, False, False]


def test_gradient_against_differences():
    z, y = rows(6)
    queries = z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q: loss(q, y, 2, keys=z), (queries,))
