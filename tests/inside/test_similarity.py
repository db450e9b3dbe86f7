"""Similarity of representations, by its definition and by what it must not see."""

import pytest
import torch
from torch import Tensor

from lit_ft.inside.similarity import linear_cka, representational_similarity


def rows(seed: int, count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """tr(K H L H) with explicit centring matrices."""
    centring = torch.eye(len(a), dtype=torch.float64) - 1.0 / len(a)
    return torch.trace((a @ a.T) @ centring @ (b @ b.T) @ centring)


@pytest.mark.parametrize(("count", "width"), [(40, 5), (6, 30)])  # both forms of the formula
def test_cka_is_the_normalised_hsic(count: int, width: int) -> None:
    a, b = rows(0, count, width), rows(1, count, width + 2) + 3.0
    expected = hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt()
    assert linear_cka(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert 0 < linear_cka(a, b) < 0.99
    assert linear_cka(a, a) == pytest.approx(1.0, abs=1e-12)


def test_cka_does_not_see_rotation_scale_or_shift_but_sees_stretching() -> None:
    a = rows(0, 30, 8)
    turn = torch.linalg.qr(rows(1, 8, 8)).Q
    assert linear_cka(a, 3.7 * a @ turn + 5.0) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(a, a * torch.linspace(0.1, 4.0, 8)) < 0.95
    assert (linear_cka(a, torch.ones(30, 2)), linear_cka(torch.ones(30, 1), torch.ones(30, 2))) == (0.0, 1.0)


def test_rsa_is_the_correlation_of_cosine_distances_by_loops() -> None:
    a, b = rows(0, 7, 4), rows(1, 7, 9)
    distances: list[list[float]] = [[], []]
    for i in range(7):
        for j in range(i + 1, 7):
            for kept, z in zip(distances, (a, b), strict=True):
                kept.append(1 - float(z[i] @ z[j] / (z[i].norm() * z[j].norm())))
    x, y = (torch.tensor(d, dtype=torch.float64) - sum(d) / len(d) for d in distances)
    assert representational_similarity(a, b) == pytest.approx(float(x @ y / (x.norm() * y.norm())), abs=1e-9)
    turn = torch.linalg.qr(rows(2, 4, 4)).Q
    assert representational_similarity(a, 2 * a @ turn) == pytest.approx(1.0, abs=1e-9)
