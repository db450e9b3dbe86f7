"""Trace and spectral density against known spectra."""

import pytest
import torch

from lit_ft.core.curvature import hutch_plus_plus, spectral_density
from lit_ft.core.errors import ConfigError


class Dense:
    single = True

    def __init__(self, spectrum):
        spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        basis, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator).double())
        self.matrix, self.size, self.products = basis @ torch.diag(spectrum) @ basis.T, len(spectrum), 0
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def apply(self, block):
        self.products += len(block)
        return block @ self.matrix


def test_trace_is_exact_on_a_low_rank_matrix_and_better_than_hutchinson():
    operator = Dense([9.0, 5.0, -3.0, 2.0] + [0.0] * 196)
    assert hutch_plus_plus(operator, 30) == pytest.approx(13, abs=1e-9)
    assert operator.products <= 30
    decaying = Dense([1 / (i + 1) ** 2 for i in range(300)])
    truth = float(decaying.matrix.trace())
    ours, hutchinson = [], []
    for seed in range(20):
        ours.append(abs(hutch_plus_plus(decaying, 30, seed) - truth))
        signs = torch.randint(0, 2, (30, 300), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
        hutchinson.append(abs(float(((signs @ decaying.matrix) * signs).sum() / 30) - truth))
    assert sum(ours) < 0.3 * sum(hutchinson)


def test_trace_has_no_bias():
    flat = Dense([2.0 + i / 40 for i in range(40)])
    estimates = torch.tensor([hutch_plus_plus(flat, 6, seed) for seed in range(300)])
    assert abs(estimates.mean() - flat.matrix.trace()) < 4 * estimates.std() / 300**0.5


def test_density_has_the_moments_of_the_spectrum():
    spectrum = torch.cat([torch.linspace(0, 1, 480), torch.tensor([10.0] * 20)])
    density = spectral_density(Dense(spectrum), steps=30, runs=20)
    assert float(density.weights.sum()) == pytest.approx(1)
    for power in (1, 2):
        assert float((density.weights * density.nodes**power).sum()) == pytest.approx(
            float(spectrum.pow(power).mean()), rel=0.1
        )
    far = density.weights[density.nodes > 5].sum()
    assert float(far) == pytest.approx(0.04, abs=0.01)
    grid = torch.linspace(-3, 13, 3000)
    assert float(torch.trapezoid(density.on(grid, 0.2), grid.double())) == pytest.approx(1, abs=1e-3)


def test_complete_krylov_space_ends_the_run():
    operator = Dense([1.0, 2.0, 2.0, 2.0])
    density = spectral_density(operator, steps=10)
    assert len(density.nodes) == 2
    assert torch.allclose(density.nodes, torch.tensor([1.0, 2.0]).double())


def test_bad_numbers():
    with pytest.raises(ConfigError):
        hutch_plus_plus(Dense([1.0]), 2)
    with pytest.raises(ConfigError):
        spectral_density(Dense([1.0]), steps=0)
