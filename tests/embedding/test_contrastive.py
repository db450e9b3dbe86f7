"""Contrastive losses against sentence-transformers 6.2 and plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.embedding.contrastive import (
    InBatchContrastive,
    Matryoshka,
    Triplet,
    Vectors,
    batch_all,
    batch_hard,
    distances,
)
from lit_ft.tokens.pooling import pool


def texts(a: float, b: float, c: float, sine: bool = True) -> torch.Tensor:
    wave = math.sin if sine else math.cos
    quadratic = (lambda i, j: a * i + b * j * j + c) if sine else (lambda i, j: a * i + b * j + c * i * j)
    return torch.tensor([[wave(quadratic(i, j)) for j in range(5)] for i in range(4)])


A, P, N = texts(1.7, 0.9, 0.3), texts(1.1, 0.6, 1.3), texts(0.7, 1.9, 0.2, sine=False)


@pytest.mark.parametrize(
    ("loss", "negatives", "value"),
    [  # values printed by sentence-transformers 6.2.0 on these vectors
        (InBatchContrastive(), False, 5.0792832),
        (InBatchContrastive(), True, 7.1791706),
        (InBatchContrastive(symmetric=True), False, 5.1099157),
        (Triplet(0.5, "cosine"), True, 0.6548388),
        (Triplet(0.5, "euclidean"), True, 0.8060962),
        (Triplet(0.5, "manhattan"), True, 1.1911829),
    ],
)
def test_equals_sentence_transformers(loss: InBatchContrastive, negatives: bool, value: float) -> None:
    vectors = Vectors(A, P, N[:, None] if negatives else None)
    assert loss(vectors).mean().item() == pytest.approx(value, rel=1e-6)


def test_mining_equals_sentence_transformers_and_a_loop() -> None:
    x, labels = torch.cat([A, P]), torch.tensor([0, 1, 0, 1]).repeat(2)
    between = distances(x[:, None], x[None], "euclidean")
    assert batch_hard(between, labels, 0.5).mean().item() == pytest.approx(2.2034028, rel=1e-6)
    expected = []
    for a in range(8):
        found = [
            (between[a, p] - between[a, n] + 0.5).item()
            for p in range(8) if p != a and labels[p] == labels[a]
            for n in range(8) if labels[n] != labels[a]
        ]  # fmt: skip
        positive = [f for f in found if f > 0]
        expected.append(sum(positive) / max(1, len(positive)))
    torch.testing.assert_close(batch_all(between, labels, 0.5), torch.tensor(expected))
    mined = Triplet(0.5, "euclidean", "batch_hard")(Vectors(A, P, labels=labels[:4]))
    torch.testing.assert_close(mined, batch_hard(between, labels, 0.5)[:4])


def test_duplicates_are_no_negatives() -> None:
    """Rows 0 and 2 have the same positive, rows 1 and 3 the same anchor: equal to a loop that leaves them out."""
    keys = torch.tensor([[10, 20], [11, 21], [12, 20], [11, 23]])
    found = InBatchContrastive(scale=5.0)(Vectors(A, P, keys=keys))
    scores = 5 * F.normalize(A, dim=-1) @ F.normalize(P, dim=-1).T
    allowed = {0: [0, 1, 3], 1: [0, 1, 2], 2: [1, 2, 3], 3: [0, 2, 3]}
    expected = torch.stack([scores[i, cols].logsumexp(0) - scores[i, i] for i, cols in allowed.items()])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(InBatchContrastive(scale=5.0, mask_duplicates=False)(Vectors(A, P, keys=keys)), expected)


def test_matryoshka_is_the_mean_over_lengths() -> None:
    inner = InBatchContrastive()
    found = Matryoshka(inner, [2, 5], [1.0, 3.0])(Vectors(A, P, N[:, None]))
    expected = (inner(Vectors(A[:, :2], P[:, :2], N[:, None, :2])) + 3 * inner(Vectors(A, P, N[:, None]))) / 4
    torch.testing.assert_close(found, expected)
    with pytest.raises(ConfigError, match="dims"):
        Matryoshka(inner, [9])(Vectors(A, P))


def test_euclidean_gradient_is_finite_for_equal_vectors() -> None:
    a = A.clone().requires_grad_()
    Triplet(0.5, "euclidean")(Vectors(a, a.detach(), A[:, None].clone())).sum().backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "max"])
def test_pooling_reads_the_mask_and_not_the_side(pooling: str) -> None:
    hidden = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    plain = {"mean": hidden.mean(1), "last": hidden[:, 2], "cls": hidden[:, 0], "max": hidden.amax(1)}[pooling]
    junk = torch.full((1, 2, 4), 99.0)
    for padded, mask in (
        (torch.cat([hidden, junk], 1), [[1, 1, 1, 0, 0]]),
        (torch.cat([junk, hidden], 1), [[0, 0, 1, 1, 1]]),
    ):
        torch.testing.assert_close(pool(padded, torch.tensor(mask), pooling), plain)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="mining"):
        Triplet()(Vectors(A, P))
    with pytest.raises(ConfigError, match="label"):
        Triplet(mining="batch_hard")(Vectors(A, P))
    with pytest.raises(ConfigError, match="scale"):
        InBatchContrastive(scale=0)
