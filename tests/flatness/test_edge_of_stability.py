"""The tracker against dense matrices, its silence, its refusals, and the finding itself."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lit_ft.callbacks import SAM, EdgeOfStability
from lit_ft.core.curvature import hessian_eigenvalues
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method, Output
from lit_ft.curvature.stability import stability
from lit_ft.testing import ForeignData, ForeignModule, assert_no_op, assert_resumes, fit_foreign


class Small(pl.LightningModule):
    """A plain module that sees its own batches."""

    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        self.make, self.scale = optimizer, scale

    def training_step(self, batch, batch_idx):
        return self.scale * nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make(self.parameters())


def data(rows=12, batch_size=3, shuffle=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :2].sin()), batch_size=batch_size, shuffle=shuffle)


class Dense(pl.Callback):
    """Writes down the dense matrix just where the tracker measures."""

    def __init__(self, batches):
        self.batches, self.tops, self.directional = batches, [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        names = [name for name, _ in pl_module.net.named_parameters()]
        parameters = list(pl_module.net.parameters())
        batches = self.batches(trainer)

        def total(flat):
            pieces = flat.split([p.numel() for p in parameters])
            values = {n: piece.view_as(p) for n, p, piece in zip(names, parameters, pieces, strict=True)}
            terms = [
                nn.functional.mse_loss(torch.func.functional_call(pl_module.net, values, (x,)), y) for x, y in batches
            ]
            return sum(terms) / len(terms)

        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        with torch.enable_grad():
            matrix, gradient = torch.func.hessian(total)(flat), torch.func.grad(total)(flat)
        found = stability(optimizer, parameters)
        if found is not None and found.diagonal is not None:
            root = found.diagonal.sqrt()
            matrix, gradient = root[:, None] * matrix * root, root * gradient
        self.tops.append(torch.linalg.eigvalsh(matrix).flip(0))
        self.directional.append(float(gradient @ matrix @ gradient / (gradient @ gradient)))


def fit(module, callbacks, loader=None, steps=4, **trainer):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    runner = pl.Trainer(max_steps=steps, callbacks=callbacks, logger=False, accelerator="cpu", **quiet, **trainer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'train_dataloader'")
        warnings.filterwarnings("ignore", "`torch.jit")
        runner.fit(module, data() if loader is None else loader)
    return runner


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw in groups": lambda p: torch.optim.AdamW(
        [{"params": (q := list(p))[:2], "lr": 1e-3}, {"params": q[2:]}], lr=1e-2
    ),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_eigenvalues_are_those_of_the_dense_preconditioned_hessian_of_the_window(name):
    batches = list(data())
    dense = Dense(lambda trainer: batches[2 * (trainer.global_step % 2) :][:2])
    tracker = EdgeOfStability(every_n_steps=1, k=2, tol=1e-6)
    fit(Small(OPTIMIZERS[name]), [dense, tracker], accumulate_grad_batches=2)
    assert [row["step"] for row in tracker.measurements] == [0, 1, 2, 3]
    for row, truth, along in zip(tracker.measurements, dense.tops, dense.directional, strict=True):
        found = torch.tensor([row["lambda_1"], row["lambda_2"]])
        assert torch.allclose(found, truth[:2], atol=1e-5 * float(truth[0]), rtol=0)
        assert row["directional_sharpness"] == pytest.approx(along, rel=1e-3)
    last = tracker.measurements[-1]
    expected = {"sgd": 3.8 / 0.1, "rmsprop": 200, "adam": 3800, "adamw in groups": 3800}[name]
    assert last["threshold"] == pytest.approx(expected)
    assert last["ratio"] == pytest.approx(last["lambda_1"] / expected)


def test_raw_sharpness_under_adam_has_no_threshold():
    batches = list(data())
    tracker = EdgeOfStability(every_n_steps=1, tol=1e-6, preconditioned=False)
    sgd = EdgeOfStability(every_n_steps=1, tol=1e-6)
    fit(Small(OPTIMIZERS["adam"]), [tracker], steps=1)
    fit(Small(), [sgd], steps=1)
    assert tracker.measurements[0]["lambda_1"] == pytest.approx(sgd.measurements[0]["lambda_1"])
    assert "ratio" not in tracker.measurements[0]
    assert len(batches) == 4


class Weighted(Method):
    """A method whose batches differ in weight."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 2), lambda p: torch.optim.SGD(p, lr=0.1))

    def compute(self, batch):
        return Output(nn.functional.mse_loss(self.network(batch[0]), batch[1]))

    def loss_weight(self, batch):
        return float(len(batch[0]))


def test_ragged_micro_batches_of_a_method_weigh_as_in_training():
    tracker = EdgeOfStability(every_n_steps=1, tol=1e-6)
    fit(Weighted(), [tracker], data(rows=10, batch_size=4), steps=1, accumulate_grad_batches=3)
    whole = EdgeOfStability(every_n_steps=1, tol=1e-6)
    fit(Weighted(), [whole], data(rows=10, batch_size=10), steps=1)
    assert tracker.measurements[0]["lambda_1"] == pytest.approx(whole.measurements[0]["lambda_1"], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_batches": 2}, {"training": True}])
def test_training_is_bit_identical_with_it(options, tmp_path):
    assert_no_op(lambda: EdgeOfStability(every_n_steps=2, k=2, **options), tmp_path)


def test_bit_identical_under_accumulation_clipping_and_bfloat16(tmp_path):
    for i, trainer in enumerate(
        [{"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}]
    ):
        assert_no_op(lambda: EdgeOfStability(every_n_steps=2), tmp_path / str(i), **trainer)


class SetFree(pl.Callback):
    """Trains the last layer alone for a while; knows the sharpness without a warm start."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.net[0].requires_grad_(trainer.global_step >= 2)
        self.sharpness = float(hessian_eigenvalues(pl_module, [batch]).values[0])


def test_parameters_that_are_set_free_start_a_new_subspace():
    tracker, free = EdgeOfStability(every_n_steps=1), SetFree()
    fit(Small(), [free, tracker], data(), steps=4)
    assert len(tracker.measurements) == 4
    assert tracker.measurements[-1]["lambda_1"] == pytest.approx(free.sharpness, rel=1e-3)


def test_a_resumed_run_logs_the_same_numbers(tmp_path):
    assert_resumes(lambda: EdgeOfStability(every_n_steps=2, save_vectors=True), tmp_path / "window")
    assert_resumes(lambda: EdgeOfStability(every_n_steps=2, num_batches=3, save_vectors=True), tmp_path / "fixed")


def test_fixed_batches_are_the_same_in_every_run_and_over_the_whole_run():
    runs = []
    for shuffle in (True, True):
        tracker = EdgeOfStability(every_n_steps=1, num_batches=2, tol=1e-6)
        fit(Small(lambda p: torch.optim.SGD(p, lr=1e-12)), [tracker], data(shuffle=shuffle), steps=6)
        torch.randn(1)
        runs.append([row["lambda_1"] for row in tracker.measurements])
    assert len(runs[0]) == 6
    assert torch.tensor(runs).std() < 1e-5 * runs[0][0]
    planned = EdgeOfStability(every_n_steps=5, num_batches=2)
    fit_foreign([planned], module=ForeignModule(), data=ForeignData())
    assert len(planned.measurements) == 5


class Stream(IterableDataset):
    def __iter__(self):
        yield from list(data(batch_size=1).dataset)


class Listed(torch.utils.data.SequentialSampler):
    """A sampler with an attribute that our own samplers have, and mean something else by."""

    batches = (1, 2)


def test_a_foreign_sampler_and_another_fit():
    """What is measured are rows of the loader of this fit."""
    rows = data().dataset
    tracker, fresh = EdgeOfStability(1, num_batches=4, tol=1e-6), EdgeOfStability(1, num_batches=4, tol=1e-6)
    fit(Small(), [tracker], steps=1, loader=DataLoader(rows, batch_size=3, sampler=Listed(rows)))
    first = tracker.measurements[0]["lambda_1"]
    other = DataLoader(TensorDataset(3 * rows.tensors[0], rows.tensors[1]), batch_size=3)
    for callback in (tracker, fresh):
        fit(Small(), [callback], steps=1, loader=other)
    assert tracker.measurements[0]["lambda_1"] == pytest.approx(fresh.measurements[0]["lambda_1"], rel=1e-5)
    assert tracker.measurements[0]["lambda_1"] > 2 * first


def test_a_stream_is_measured_on_its_first_batches():
    tracker = EdgeOfStability(every_n_steps=1, num_batches=2, tol=1e-6)
    fit(Small(lambda p: torch.optim.SGD(p, lr=1e-12)), [tracker], DataLoader(Stream(), batch_size=3), steps=3)
    batches = list(data())[:2]
    dense = Dense(lambda trainer: batches)
    fit(Small(), [dense], steps=1)
    assert [row["step"] for row in tracker.measurements] == [1, 2]
    assert tracker.measurements[0]["lambda_1"] == pytest.approx(float(dense.tops[0][0]), rel=1e-4)


def test_with_sam_there_is_no_ratio():
    tracker = EdgeOfStability(every_n_steps=1)
    with pytest.warns(UserWarning, match="with SAM"):
        fit_foreign([SAM(), tracker])
    assert "lambda_1" in tracker.measurements[0]
    assert not any("ratio" in row or "threshold" in row for row in tracker.measurements)


def test_an_unknown_optimizer_is_said_once():
    tracker = EdgeOfStability(every_n_steps=1)
    with pytest.warns(UserWarning, match="no threshold is known for Adagrad") as record:
        fit(Small(lambda p: torch.optim.Adagrad(p, lr=0.1)), [tracker])
    assert sum("threshold" in str(w.message) for w in record) == 1
    assert len(tracker.measurements) == 4
    assert "ratio" not in tracker.measurements[-1]


def test_rate_zero_and_broken_losses_do_no_harm():
    tracker = EdgeOfStability(every_n_steps=1)
    fit(Small(lambda p: torch.optim.SGD(p, lr=0.0)), [tracker])
    assert "ratio" not in tracker.measurements[0]
    broken = EdgeOfStability(every_n_steps=1)
    with pytest.warns(UserWarning, match="no curvature to measure"):
        runner = fit(Small(scale=float("nan")), [broken])
    assert runner.global_step == 4
    assert broken.measurements == []


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        return 2 * upstream * ctx.saved_tensors[0]


class NoSecond(Small):
    def training_step(self, batch, batch_idx):
        return Once.apply(self.net(batch[0]) - batch[1]).mean()


def test_a_loss_without_second_derivative_is_said_and_training_goes_on():
    tracker = EdgeOfStability(every_n_steps=1)
    with pytest.warns(UserWarning, match="finite_difference"):
        runner = fit(NoSecond(), [tracker])
    assert runner.global_step == 4
    assert tracker.measurements == []
    near, exact = EdgeOfStability(1, tol=1e-3, product="finite_difference"), EdgeOfStability(1, tol=1e-6)
    fit(NoSecond(), [near], steps=1)
    fit(Small(), [exact], steps=1)
    assert near.measurements[0]["lambda_1"] == pytest.approx(exact.measurements[0]["lambda_1"], rel=3e-3)


class ByHand(Small):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def test_refusals():
    for options in ({"every_n_steps": 0}, {"k": 0}, {"tol": 0.0}, {"num_batches": 0}, {"product": "exact"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            EdgeOfStability(**options)
    with pytest.raises(ConfigError, match="by hand"):
        fit(ByHand(), [EdgeOfStability()])
    with pytest.raises(ConfigError, match="trainable parameters, 32"):
        fit(Small(), [EdgeOfStability(k=33)])


def test_logged_under_the_promised_names():
    runner = fit(Small(), [EdgeOfStability(every_n_steps=2, k=2)], steps=3)
    expected = {"lambda_1", "lambda_2", "threshold", "ratio", "directional_sharpness", "products"}
    assert {key.removeprefix("edge_of_stability/") for key in runner.callback_metrics} == expected


def test_report_and_plot():
    tracker = EdgeOfStability(every_n_steps=1)
    fit(Small(), [tracker], steps=10)
    report = tracker.report()
    ratios = [row["ratio"] for row in tracker.measurements]
    assert report["ratio"] == {"at_a_tenth": ratios[1], "late_mean": pytest.approx(sum(ratios[-2:]) / 2)}
    steps = list(range(10))
    history = {
        "edge_of_stability/lambda_1": (steps, [row["lambda_1"] for row in tracker.measurements]),
        "edge_of_stability/threshold": (steps, [20.0] * 10),
    }
    axes = tracker.plots(history)["edge_of_stability"].axes[0]
    assert [len(line.get_xdata()) for line in axes.lines] == [10, 10]
    assert tracker.plots({}) == {}
    assert EdgeOfStability().report() == {}
