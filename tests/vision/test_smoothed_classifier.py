"""Certificates of a linear classifier are known in closed form."""

from collections import defaultdict
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_ft.callbacks import SAM, GaussianNoise
from lit_ft.core.errors import ConfigError
from lit_ft.metrics import CertifiedAccuracy
from lit_ft.testing import ForeignModule, fit_foreign
from lit_ft.vision.smoothed_classifier import ABSTAINS, SmoothedClassifier, lower_confidence_bound


def linear() -> tuple[nn.Linear, Tensor]:
    """Two classes, the second where w x + b > 0."""
    w = torch.tensor([3.0, -4.0])  # of length 5
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(2), w]))
        layer.bias.copy_(torch.tensor([0.0, 0.5]))
    return layer, w


def test_certified_radius_is_below_the_distance_to_the_boundary() -> None:
    layer, w = linear()
    x = torch.tensor([[0.3, -0.1], [-0.2, 0.1], [0.4, 0.5], [-0.4, 0.2]])
    distances = (x @ w + 0.5) / w.norm()
    found = SmoothedClassifier(layer, sigma=0.5, n=20000, alpha=0.001).certify(x)
    for certificate, distance in zip(found, distances.tolist(), strict=True):
        assert certificate.label == int(distance > 0)
        assert certificate.radius <= abs(distance)
        assert certificate.radius == pytest.approx(abs(distance), abs=0.03)


def test_shares_of_the_classes() -> None:
    layer, w = linear()
    x = torch.tensor([[0.3, -0.1], [-0.2, 0.1]])
    shares = SmoothedClassifier(layer, sigma=0.5, n=20000)(x)
    for row, distance in zip(shares, ((x @ w + 0.5) / w.norm()).tolist(), strict=True):
        assert float(row[1]) == pytest.approx(NormalDist().cdf(distance / 0.5), abs=0.02)
        assert float(row.sum()) == pytest.approx(1)


def test_abstains_on_the_boundary() -> None:
    layer, _ = linear()
    x = torch.tensor([[-0.1, 0.05], [1.0, -1.0]])  # the first: w x + b = 0
    smoothed = SmoothedClassifier(layer, sigma=0.5, n=1000)
    first, second = smoothed.certify(x)
    assert (first.label, first.radius) == (ABSTAINS, 0.0)
    assert second.label == 1
    assert smoothed.predict(x).tolist() == [ABSTAINS, 1]


def test_confidence_bound() -> None:
    """The chance of that many hits or more, at the bound, is alpha; all hits in closed form; coverage."""
    from scipy.stats import binom

    bound = lower_confidence_bound(90, 100, 0.01)
    assert binom.sf(89, 100, bound) == pytest.approx(0.01)
    assert lower_confidence_bound(50, 50, 0.05) == pytest.approx(0.05 ** (1 / 50))
    assert lower_confidence_bound(0, 50, 0.05) == 0


def test_runs_in_evaluation_mode_and_in_pieces() -> None:
    layer, _ = linear()
    noisy = nn.Sequential(nn.Dropout(0.9), layer)
    x = torch.tensor([[0.3, -0.1]])
    whole = SmoothedClassifier(noisy, n=500)(x)
    assert torch.equal(whole, SmoothedClassifier(layer, n=500)(x))
    assert noisy.training
    assert SmoothedClassifier(layer, n=500, batch_size=7)(x).sum() == pytest.approx(1)


def test_certified_accuracy() -> None:
    metric = CertifiedAccuracy(radius=0.5)
    metric.update(torch.tensor([0, 1, ABSTAINS]), torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0, 1, 0]))
    metric.update(torch.tensor([2, 1]), torch.tensor([0.5, 0.9]), torch.tensor([2, 0]))
    assert metric.compute() == pytest.approx(2 / 5)


WITNESS: dict[int, list[Tensor]] = defaultdict(list)


class Seen(ForeignModule):
    """Keeps what it was given outside of itself: a second pass puts back all that a module holds."""

    @property
    def seen(self) -> list[Tensor]:
        return WITNESS[id(self)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


def test_noise_is_added_once_and_repeated_in_the_second_pass() -> None:
    clean, noisy, twice = Seen(), Seen(), Seen()
    fit_foreign([], None, clean, max_epochs=1)
    fit_foreign([GaussianNoise(0.5, key=0)], None, noisy, max_epochs=1)
    fit_foreign([GaussianNoise(0.5, key=0), SAM(rho=0.0)], None, twice, max_epochs=1)
    noise = torch.cat(noisy.seen) - torch.cat(clean.seen)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
    assert all(torch.equal(a, b) for a, b in zip(twice.seen[::2], twice.seen[1::2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(twice.seen[::2], noisy.seen, strict=True))


def test_noise_refuses() -> None:
    with pytest.raises(ConfigError, match="GaussianNoise before SAM"):
        fit_foreign([SAM(), GaussianNoise(key=0)])
    for key in ("images", 1, 5):
        with pytest.raises(ConfigError, match="key"):
            fit_foreign([GaussianNoise(key=key)])
    with pytest.raises(ConfigError, match="sigma"):
        GaussianNoise(-1.0)
