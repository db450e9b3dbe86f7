"""Eigenvalues against dense Hessians, closed forms, and each other."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from lit_ft.core.curvature import (
    NoDoubleBackward,
    NonFiniteLoss,
    Objective,
    WarmSubspace,
    group_eigenvalues,
    hessian_eigenvalues,
    leading_eigenpairs,
)
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.double_backward import double_backward_wanted
from lit_ft.curvature.operators import FiniteDifferenceHessian, Hessian


class Dense:
    """An operator with a known matrix."""

    single = True

    def __init__(self, matrix):
        self.matrix, self.size, self.products = matrix, len(matrix), 0
        self.dtype, self.device = matrix.dtype, matrix.device

    def apply(self, block):
        self.products += len(block)
        return block @ self.matrix


def rotated(spectrum, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.as_tensor(spectrum, dtype=torch.float64)) @ basis.T, basis.T


def network(seed=0, inputs=4, hidden=6, outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def cross_entropy(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def batch_of(rows, seed=0, inputs=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, inputs, generator=generator), torch.randint(classes, (rows,), generator=generator)


def dense_hessian(module, batches, weights, loss=cross_entropy):
    """The matrix by torch.func, in float64."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    shapes = [module.get_parameter(name).shape for name in names]

    def total(flat):
        pieces = flat.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}

        def call(x):
            return torch.func.functional_call(module, values, (x,))

        terms = [w * loss(call, batch) for w, batch in zip(weights, batches, strict=True)]
        return sum(terms) / sum(weights)

    flat = torch.cat([module.get_parameter(name).detach().reshape(-1) for name in names])
    return torch.func.hessian(total)(flat)


@pytest.mark.parametrize("which", ["largest", "magnitude"])
@pytest.mark.parametrize(
    "spectrum",
    [
        np.linspace(-1, 5, 300),
        [10, 9.99, 9.98, 9.97, 9.96, *np.linspace(0, 4, 300)],  # a cluster
        [-8, -7.5, 6, 5, *np.linspace(-1, 1, 300)],  # negative curvature dominates
        [-5.0, *np.linspace(-4, -1, 100)],
    ],
)
def test_chosen_spectra(spectrum, which):
    matrix, _ = rotated(spectrum)
    order = np.argsort(-np.abs(spectrum) if which == "magnitude" else -np.asarray(spectrum))
    truth = torch.tensor(np.asarray(spectrum, dtype=float)[order[:3]])
    operator = Dense(matrix)
    found = leading_eigenpairs(operator, torch.ones(1, len(spectrum)).double(), 3, tol=1e-5, which=which)
    assert (found.values - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert found.converged
    assert found.products == operator.products
    images = found.vectors @ matrix
    cosine = (images * found.vectors).sum(1) / images.norm(dim=1)
    assert cosine.abs().min() > 0.9


@pytest.mark.parametrize(
    ("spectrum", "k"),
    [
        ([13.3 - 0.02 * i for i in range(10)] + [3 / (i + 1) for i in range(900)], 1),  # clustered at the edge
        ([13.3 - 0.02 * i for i in range(10)] + [3 / (i + 1) for i in range(900)], 10),
        ([100 / (i + 1) ** 2 for i in range(900)], 10),  # a power law
    ],
)
def test_tolerance_holds_from_a_cold_start(spectrum, k):
    for seed in range(3):
        matrix, _ = rotated(spectrum, seed)
        start = (torch.randn(len(spectrum), generator=torch.Generator().manual_seed(seed)).double() @ matrix)[None]
        found = leading_eigenpairs(Dense(matrix), start, k, tol=1e-4)
        assert found.converged
        assert (found.values - torch.tensor(spectrum[:k])).abs().max() <= 1e-4 * spectrum[0]


@pytest.mark.parametrize("k", [1, 5, 9, 15])
def test_all_copies_of_a_repeated_eigenvalue_are_found(k):
    """A linear network with squared error has the Hessian of its inputs once for each output."""
    inputs = torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.1, 40)
    single = torch.linalg.eigvalsh(inputs.double().T @ inputs.double() / 200).flip(0)
    for seed in range(6):
        torch.manual_seed(seed)
        found = hessian_eigenvalues(
            nn.Linear(40, 10, bias=False), [inputs], k, 1e-4, lambda module, x: 0.5 * module(x).square().sum(1).mean()
        )
        assert found.converged
        assert (found.values - single.repeat_interleave(10)[:k]).abs().max() <= 1e-4 * single[0]


def test_thick_restart_keeps_what_was_learnt():
    matrix, _ = rotated(np.linspace(0, 1, 400) ** 3)
    found = leading_eigenpairs(Dense(matrix), torch.ones(1, 400).double(), 2, tol=1e-6, max_basis=12)
    assert found.converged
    assert found.products > 24  # more than two bases full
    assert abs(float(found.values[0]) - 1) < 1e-6


def test_a_direction_that_rises_orthogonally_is_found():
    spectrum = np.concatenate([[5.0, 4.0, 3.0], np.linspace(0, 2, 200)])
    _, basis = rotated(spectrum)
    warm, wrong = WarmSubspace(), []
    for step in range(30):
        spectrum[100] = 0.5 + 0.25 * step  # an eigenvector inside the bulk climbs past the others
        matrix = basis.T @ torch.diag(torch.tensor(spectrum)) @ basis
        gradient = torch.randn(len(spectrum), generator=torch.Generator().manual_seed(step)).double() @ matrix
        found = leading_eigenpairs(Dense(matrix), warm.rows(gradient), 1, tol=1e-4)
        warm.remember(found)
        wrong.append(abs(float(found.values[0]) - spectrum.max()) / spectrum.max())
    assert max(wrong) < 1e-3


def test_warm_start_takes_the_vectors_of_two_steps_ago_when_the_path_swings():
    spectrum = np.concatenate([[5.0, 4.5, 4.0], np.linspace(0, 3, 200)])
    even, odd = rotated(spectrum, seed=0)[0], rotated(spectrum, seed=1)[0]
    warm, products = WarmSubspace(), []
    for step in range(8):
        operator = Dense((even, odd)[step % 2])
        found = leading_eigenpairs(operator, warm.rows(torch.ones(len(spectrum)).double()), 1, tol=1e-4)
        warm.remember(found)
        products.append(found.products)
    assert max(products[3:]) <= 5
    assert min(products[:2]) > 8


@pytest.mark.parametrize("product", ["double_backward", "finite_difference"])
def test_equals_the_dense_hessian_with_weighted_ragged_batches(product):
    module = network()
    batches, weights = [batch_of(7), batch_of(2, 1), batch_of(4, 2)], [7.0, 2.0, 4.0]
    module.loss_weight = lambda batch: float(len(batch[1]))
    truth = torch.linalg.eigvalsh(dense_hessian(module, batches, weights)).flip(0)
    tol = 1e-5 if product == "double_backward" else 1e-3
    found = hessian_eigenvalues(module, batches, 3, tol, cross_entropy, product=product)
    assert torch.allclose(found.values.float(), truth[:3], atol=2 * tol * float(truth[0]))
    whole = (torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]))
    single = hessian_eigenvalues(module, [whole], 3, tol, cross_entropy, product=product)
    assert torch.allclose(found.values, single.values, atol=2 * tol * float(truth[0]))
    unweighted = torch.linalg.eigvalsh(dense_hessian(module, batches, [1.0, 1.0, 1.0]))[-1]
    assert abs(unweighted - truth[0]) > 0.01  # the weights matter here


def test_magnitude_reports_a_dominant_negative_curvature_with_its_sign():
    module = network()

    def concave(model, batch):
        return -cross_entropy(model, batch)

    eigenvalues = torch.linalg.eigvalsh(dense_hessian(module, [batch_of(9)], [1.0], concave))
    largest = hessian_eigenvalues(module, [batch_of(9)], 1, 1e-5, concave)
    dominant = hessian_eigenvalues(module, [batch_of(9)], 1, 1e-5, concave, which="magnitude")
    assert torch.isclose(largest.values[0].float(), eigenvalues[-1], atol=1e-5)
    assert torch.isclose(dominant.values[0].float(), eigenvalues[0], atol=1e-4)
    assert dominant.values[0] < 0 < -dominant.values[0] - largest.values[0]


def test_softmax_regression_closed_form():
    module = nn.Linear(5, 3, bias=False).double()
    x, y = batch_of(20, inputs=5)
    x = x.double()
    p = module(x).softmax(-1).detach()
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    exact = torch.einsum("nij,na,nb->iajb", blocks, x, x).reshape(15, 15) / 20
    truth = torch.linalg.eigvalsh(exact).flip(0)[:4]
    found = hessian_eigenvalues(module, [(x, y)], 4, 1e-10, cross_entropy)
    assert torch.allclose(found.values, truth, atol=1e-9)
    assert torch.allclose(found.vectors @ exact, found.values[:, None] * found.vectors, atol=1e-4)


def test_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    module, batches = network(hidden=20, inputs=8), [batch_of(40, inputs=8)]
    objective = Objective(module, batches, cross_entropy)
    with objective.evaluating():
        matrix = Hessian(objective)
        operator = linalg.LinearOperator(
            (matrix.size, matrix.size),
            matvec=lambda v: matrix.apply(torch.tensor(v, dtype=torch.float32).view(1, -1))[0].numpy(),
            dtype=np.float32,
        )
        truth = linalg.eigsh(operator, k=3, which="LA", tol=1e-6)[0][::-1].copy()
    found = hessian_eigenvalues(module, batches, 3, 1e-5, cross_entropy)
    assert np.allclose(found.values, truth, atol=2e-5 * truth[0])


def test_tied_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight
            self.frozen = nn.Linear(4, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))

    torch.manual_seed(0)
    module, batch = Tied(), batch_of(12)
    truth = torch.linalg.eigvalsh(dense_hessian(module, [batch], [1.0]))[-1]
    found = hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy)
    assert found.vectors.shape == (1, 16)
    assert torch.isclose(found.values[0].float(), truth, atol=1e-4)


def test_groups_are_the_diagonal_blocks():
    module, batch = network(), batch_of(12)
    matrix = dense_hessian(module, [batch], [1.0])
    found = group_eigenvalues(module, [batch], None, 2, 1e-5, cross_entropy)
    assert list(found) == ["0", "2"]
    for name, block in {"0": matrix[:30, :30], "2": matrix[30:, 30:]}.items():
        assert torch.allclose(found[name].values.float(), torch.linalg.eigvalsh(block).flip(0)[:2], atol=1e-4)
    biases = group_eigenvalues(module, [batch], {"biases": "*.bias"}, 1, 1e-5, cross_entropy)
    chosen = [*range(24, 30), *range(48, 51)]
    truth = torch.linalg.eigvalsh(matrix[chosen][:, chosen])[-1]
    assert torch.isclose(biases["biases"].values[0].float(), truth, atol=1e-4)
    with pytest.raises(ConfigError, match=r"groups\.none"):
        group_eigenvalues(module, [batch], {"none": "layer.*"}, 1, 1e-3, cross_entropy)


class Foreign(pl.LightningModule):
    """Somebody's module: logs, drops out, normalises, pops from its batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch.pop("x")), batch["y"])
        self.log("loss", loss)
        return {"loss": loss}


@pytest.mark.parametrize("training", [False, True])
def test_a_lightning_module_is_left_as_it_was(training):
    torch.manual_seed(0)
    module = Foreign()
    module.net[1].eval()
    x, y = batch_of(12)
    batch = {"x": x, "y": y}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [child.training for child in module.modules()]
    random = torch.get_rng_state()
    first = hessian_eigenvalues(module, [batch], 1, 1e-5, training=training)
    second = hessian_eigenvalues(module, [batch], 1, 1e-5, training=training)
    assert torch.equal(first.values, second.values)  # one dropout mask, not a random matrix
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [child.training for child in module.modules()]
    assert set(batch) == {"x", "y"}
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.inner(x[:, None].expand(-1, 3, -1)).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)
        return self.out(torch.tanh(mixed[:, 0].sum(1)))


def test_attention_uses_the_kernel_with_second_derivatives():
    torch.manual_seed(0)
    module, batch = Attention(), batch_of(8)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = torch.linalg.eigvalsh(dense_hessian(module, [batch], [1.0]))[-1]
    found = hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy)
    assert torch.isclose(found.values[0].float(), truth, atol=1e-4)


def test_compiled_and_autocast_code_is_measured_in_float32_eagerly():
    module, batch = network(), batch_of(12)
    truth = hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy).values
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy).values, truth)
    compiled = torch.compile(module, backend="aot_eager")
    compiled(batch[0])
    assert torch.equal(hessian_eigenvalues(compiled, [batch], 1, 1e-5, cross_entropy).values, truth)
    outer = nn.Sequential(compiled)
    assert torch.equal(hessian_eigenvalues(outer, [batch], 1, 1e-5, cross_entropy).values, truth)


def test_bfloat16_weights():
    module, batch = network(), batch_of(12)
    rounded = network().bfloat16()
    truth = hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy).values[0]
    found = hessian_eigenvalues(rounded, [(batch[0].bfloat16(), batch[1])], 1, 1e-4, cross_entropy)
    assert found.converged
    assert found.vectors.dtype == torch.float32
    assert abs(found.values[0] - truth) < 0.03 * truth
    with pytest.raises(ConfigError, match="finite_difference"):
        hessian_eigenvalues(rounded, [batch], 1, 1e-2, cross_entropy, product="finite_difference")


def test_finite_differences_put_the_weights_back_bit_for_bit():
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    objective = Objective(module, [batch_of(6)], cross_entropy)
    with objective.evaluating():
        vector = torch.randn(1, objective.size)
        exact = Hessian(objective).apply(vector)
        near = FiniteDifferenceHessian(objective).apply(vector)
    assert (near - exact).norm() < 2e-3 * exact.norm()
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


class EarlyGradient(torch.autograd.Function):
    """A loss whose gradient is formed in the forward pass."""

    @staticmethod
    def forward(ctx, z, y):
        p = z.softmax(-1)
        ctx.save_for_backward((p - nn.functional.one_hot(y, z.shape[-1])) / len(y))
        return -p.gather(1, y[:, None]).log().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0], None


def test_losses_without_second_derivative_say_so_or_switch():
    module, batch = network(), batch_of(12)

    def early(model, batch):
        return EarlyGradient.apply(model(batch[0]), batch[1])

    def switching(model, batch):
        return cross_entropy(model, batch) if double_backward_wanted() else early(model, batch)

    truth = hessian_eigenvalues(module, [batch], 1, 1e-5, cross_entropy).values
    with pytest.raises(NoDoubleBackward, match=r"finite_difference.*differentiable_twice"):
        hessian_eigenvalues(module, [batch], 1, 1e-5, early)
    assert torch.equal(hessian_eigenvalues(module, [batch], 1, 1e-5, switching).values, truth)
    near = hessian_eigenvalues(module, [batch], 1, 1e-3, early, product="finite_difference").values
    assert torch.allclose(near, truth, rtol=3e-3)
    assert not double_backward_wanted()


def test_bad_input():
    module, batch = network(), batch_of(12)
    for k in (0, 52):
        with pytest.raises(ConfigError, match="1 to the number of parameters, 51"):
            hessian_eigenvalues(module, [batch], k, loss=cross_entropy)
    full = hessian_eigenvalues(module, [batch], 51, loss=cross_entropy)
    assert torch.allclose(
        full.values.float(), torch.linalg.eigvalsh(dense_hessian(module, [batch], [1.0])).flip(0), atol=1e-4
    )
    with pytest.raises(ConfigError, match="at least one batch"):
        hessian_eigenvalues(module, [], 1, loss=cross_entropy)
    with pytest.raises(ConfigError, match=r"loss\(module, batch\)"):
        hessian_eigenvalues(module, [batch], 1)
    with pytest.raises(NonFiniteLoss):
        hessian_eigenvalues(module, [(batch[0] * torch.inf, batch[1])], 1, loss=cross_entropy)
    with pytest.raises(ConfigError, match="require a gradient"):
        hessian_eigenvalues(network().requires_grad_(False), [batch], 1, loss=cross_entropy)
    with pytest.raises(ConfigError, match="which"):
        hessian_eigenvalues(module, [batch], 1, loss=cross_entropy, which="smallest")
    with pytest.raises(ConfigError, match="complex"):
        hessian_eigenvalues(nn.Linear(2, 2, dtype=torch.complex64), [batch], 1, loss=cross_entropy)
    losses = {
        r"shape \(12, 3\)": lambda model, batch: model(batch[0]),
        "a float": lambda model, batch: cross_entropy(model, batch).item(),
        "without a gradient": lambda model, batch: cross_entropy(model, batch).detach(),
    }
    for given, loss in losses.items():
        with pytest.raises(ConfigError, match=given):
            hessian_eigenvalues(module, [batch], 1, loss=loss)


def test_a_curvature_that_is_not_finite_is_said():
    """|w|^1.5 at 0 has a loss and a gradient of 0, and no second derivative."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    with pytest.raises(NonFiniteLoss, match="curvature"):
        hessian_eigenvalues(module, [None], 1, loss=lambda model, _: model.weight.abs().pow(1.5).sum())


def test_sparse_gradients_are_measured_by_differences():
    torch.manual_seed(0)
    rows = torch.tensor([0, 2, 2])

    def loss(model, batch):
        return model(batch).square().sum() / 2

    sparse, dense = nn.Embedding(4, 2, sparse=True), nn.Embedding(4, 2)
    dense.load_state_dict(sparse.state_dict())
    found = hessian_eigenvalues(sparse, [rows], 3, 1e-3, loss, product="finite_difference").values
    assert found.tolist() == pytest.approx([2.0, 2.0, 1.0], rel=1e-2)
    assert hessian_eigenvalues(dense, [rows], 3, 1e-4, loss).values.tolist() == pytest.approx([2.0, 2.0, 1.0], rel=1e-3)


class _Foreign(pl.LightningModule):
    """A LightningModule of somebody else, with batches of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, (list, tuple)) else batch
        return self.layer(x).square().mean() / 2


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: [x, x[:, 0]],
        lambda x: (x, {"y": x[:, 0]}),
        lambda x: {"x": x, "scale": torch.tensor(2.0)},
    ],
    ids=["tensor", "list", "nested", "mapping"],
)
def test_a_short_batch_of_a_foreign_module_weighs_its_rows(form: Any) -> None:
    """The Hessian of the mean over all rows is the mean of their squares, however they are cut into batches."""
    rows = torch.arange(1.0, 8.0)[:, None]
    for cuts in ([7], [3, 3, 1], [6, 1]):
        found = hessian_eigenvalues(_Foreign(), [form(part) for part in rows.split(cuts)], k=1)
        assert found.values.item() == pytest.approx(rows.square().mean().item(), rel=1e-5)
    untold = [[rows[:6], torch.zeros(2)], [rows[6:], torch.zeros(1)]]
    mean = (rows[:6].square().mean() + rows[6:].square().mean()) / 2
    assert hessian_eigenvalues(_Foreign(), untold, k=1).values.item() == pytest.approx(mean.item(), rel=1e-5)
