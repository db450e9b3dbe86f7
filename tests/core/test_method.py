"""The gradient of a window, hyper-parameters, parameter groups, and checkpoints without the frozen base."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torchmetrics import MeanSquaredError, Metric

from lit_ft.core.errors import ConfigError
from lit_ft.core.hyperparameters import is_plain
from lit_ft.core.method import Method, Output
from lit_ft.core.network import Network
from lit_ft.core.schedules import Constant, Cosine, Linear

ROWS = 23  # an odd last batch, and a short last window


def rows() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(ROWS, 4, generator=generator), torch.randn(ROWS, generator=generator)
    return x, y, torch.randint(1, 9, (ROWS,), generator=generator).float()


class Weighted(Method):
    """Squared error, each row with a weight; the weights of micro-batches are ragged."""

    def __init__(self, network: Any = None, optimizer: Any = None, schedule: Any = None) -> None:
        super().__init__(network or linear(), optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)), schedule)

    def compute(self, batch: Any) -> Output:
        x, y, weight = batch
        assert self.network is not None
        error = (self.network(x)[:, 0] - y) ** 2
        return Output((error * weight).sum() / weight.sum(), scalars={"error": error.mean()})

    def loss_weight(self, batch: Any) -> Tensor:
        return batch[2].sum()


class FromPath(Weighted):
    """Pretends to load a base from a path, then trains an adapter on it."""

    base_seed = 0

    def __init__(self, network: Network) -> None:
        Method.__init__(self, network)

    def build_network(self) -> nn.Module:
        generator = torch.Generator().manual_seed(self.base_seed)
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        network[0].requires_grad_(False)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        network[0].weight.requires_grad_(False)
        return network


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def fit(module: pl.LightningModule, batch: int, accumulate: int, **trainer: Any) -> pl.Trainer:
    x, y, weight = rows()
    batches = [(x[i : i + batch], y[i : i + batch], weight[i : i + batch]) for i in range(0, ROWS, batch)]
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    runner = pl.Trainer(accumulate_grad_batches=accumulate, **{"max_epochs": 2, **quiet, **trainer})
    runner.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return runner


class Gradients(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone())


@pytest.mark.parametrize("clip", [None, 0.5])
def test_accumulation_is_the_weighted_mean_of_the_window(clip: float | None) -> None:
    """accumulate=4, batch=2 equals accumulate=1, batch=8, short last window and clipping included."""
    parts, whole = Weighted(), Weighted()
    fit(parts, 2, 4, gradient_clip_val=clip)
    fit(whole, 8, 1, gradient_clip_val=clip)
    torch.testing.assert_close(parts.network.weight, whole.network.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(parts.network.bias, whole.network.bias, rtol=1e-6, atol=1e-7)


def test_other_callbacks_see_the_true_gradient() -> None:
    seen_parts, seen_whole = Gradients(), Gradients()
    fit(Weighted(), 2, 4, callbacks=[seen_parts])
    fit(Weighted(), 8, 1, callbacks=[seen_whole])
    torch.testing.assert_close(torch.stack(seen_parts.seen), torch.stack(seen_whole.seen), rtol=1e-5, atol=1e-6)
    x, y, weight = (t[:8] for t in rows())
    network = linear()
    (((network(x)[:, 0] - y) ** 2 * weight).sum() / weight.sum()).backward()
    by_hand = torch.cat([p.grad.flatten() for p in network.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(seen_parts.seen[0], by_hand, rtol=1e-5, atol=1e-6)


def test_lightning_alone_gets_it_wrong() -> None:
    """The control: with equal weights declared, the ragged window is off by far more than rounding."""

    class Unweighted(Weighted):
        def loss_weight(self, batch: Any) -> float:  # type: ignore[override]
            return 1.0

    right, wrong = Weighted(), Unweighted()
    fit(right, 2, 4)
    fit(wrong, 2, 4)
    assert (right.network.weight - wrong.network.weight).norm() > 0.05 * right.network.weight.norm()


def test_logs_the_mean_of_the_window() -> None:
    trainer = fit(Weighted(), 2, 4, max_steps=1)
    x, y, weight = (t[:8] for t in rows())
    expected = ((linear()(x)[:, 0] - y) ** 2 * weight).sum() / weight.sum()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected.item(), rel=1e-6)


def test_a_batch_without_targets_has_no_say() -> None:
    module, trainer = Weighted(), None
    x, y, weight = rows()
    batches = [(x[:4], y[:4], weight[:4]), (x[4:8], y[4:8], torch.zeros(4))]

    class Safe(Weighted):
        def compute(self, batch: Any) -> Output:
            return super().compute(batch) if batch[2].any() else Output(0.0 * self.network(batch[0]).sum())

    module = Safe()
    trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    alone = Weighted()
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.fit(alone, DataLoader(batches[:1], batch_size=None))  # type: ignore[arg-type]
    torch.testing.assert_close(module.network.weight, alone.network.weight)


class Masked(Weighted):
    """A batch may have no row that counts; there is a metric too."""

    def compute(self, batch: Any) -> Output:
        output = super().compute(batch)
        loss = output.loss if batch[2].any() else 0.0 * self.network(batch[0]).sum()
        return Output(loss, loss.detach()[None], torch.zeros(1), output.scalars)

    def configure_metrics(self) -> dict[str, Metric]:
        return {"distance": MeanSquaredError()}


def test_where_no_row_counts_nothing_is_logged() -> None:
    x, y, weight = rows()
    empty, full = (x[:4], y[:4], torch.zeros(4)), (x[4:8], y[4:8], weight[4:8])
    logged: list[dict[str, float]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[Watch()], **quiet)  # type: ignore[arg-type]
    trainer.fit(Masked(), DataLoader([empty, empty, full, empty], batch_size=None))  # type: ignore[arg-type]
    assert [sorted(values) for values in logged] == [[], [], [], ["train/error", "train/loss"]]
    assert logged[-1]["train/loss"] > 0
    for batches, keys in (([empty, empty], []), ([empty, full], ["test/distance", "test/error", "test/loss"])):
        found = trainer.test(Masked(), DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
        assert sorted(found[0]) == keys


class Waits(TorchDispatchMode):
    """Counts the times that a number is asked of the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device() -> None:
    """But for the first window of an epoch; and what a window without weight has is still what the one before had."""
    x, y, weight = rows()
    full = [(x[i : i + 4], y[i : i + 4], weight[i : i + 4]) for i in (0, 4, 8)]
    empty = (x[:4], y[:4], torch.zeros(4))
    waits, logged = [], []

    class Counted(Weighted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with Waits() as mode:
                loss = super().training_step(batch, batch_idx)
            waits.append(mode.count)
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            logged.append(float(self.trainer.callback_metrics["train/loss"]))

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=2, **quiet)  # type: ignore[arg-type]
    trainer.fit(Counted(), DataLoader([full[0], full[1], empty, full[2]], batch_size=None))  # type: ignore[arg-type]
    assert waits == 2 * [1, 0, 0, 0]
    assert logged[2] == logged[1] != logged[3]


def test_evaluation_weighs_ragged_batches() -> None:
    x, y, weight = rows()
    batches = [(x[i : i + 5], y[i : i + 5], weight[i : i + 5]) for i in range(0, ROWS, 5)]
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    values = trainer.test(Weighted(), DataLoader(batches, batch_size=None), verbose=False)[0]  # type: ignore[arg-type]
    expected = ((linear()(x)[:, 0] - y) ** 2 * weight).sum() / weight.sum()
    assert values["test/loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_no_decay_on_parameters_of_one_dimension() -> None:
    module = Weighted(optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3))
    module.configure_model()
    groups = module.configure_optimizers().param_groups  # type: ignore[union-attr]
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 1), (0.0, 1)]
    plain = Weighted(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    plain.configure_model()
    assert len(plain.configure_optimizers().param_groups) == 1  # type: ignore[union-attr]


def test_python_built_module_survives_saving(tmp_path: Path) -> None:
    module = Weighted(schedule=Constant())
    trainer = fit(module, 8, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert "schedule" not in checkpoint["hyper_parameters"], "an object is not a hyper-parameter"
    assert is_plain(checkpoint["hyper_parameters"])
    again = Weighted.load_from_checkpoint(tmp_path / "a.ckpt", network=linear(), weights_only=True)
    assert torch.equal(again.network.weight, module.network.weight)


def test_a_ready_module_is_asked_for_again(tmp_path: Path) -> None:
    class Strict(Weighted):
        def __init__(self, network: Any = None) -> None:
            Method.__init__(self, network)

    trainer = fit(Strict(linear()), 8, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="the module that this checkpoint was trained with"):
        Strict.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)


def test_frozen_base_stays_out_of_the_checkpoint(tmp_path: Path) -> None:
    module = FromPath(Network(path="somewhere"))
    trainer = fit(module, 8, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert sorted(state) == ["network.1.bias", "network.1.weight"]
    again = FromPath.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for name, value in module.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_another_base_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit(FromPath(Network(path="somewhere")), 8, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr(FromPath, "base_seed", 1)
    with pytest.raises(ConfigError, match="the base that the checkpoint was trained on"):
        FromPath.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_run_in_another_type_resumes_on_its_base(tmp_path: Path, precision: Any) -> None:
    """Lightning converts the weights after the checkpoint was looked at; those of a file are float32 until then."""

    class FromFile(FromPath):
        def build_network(self) -> nn.Module:
            return super().build_network().float()

    trainer = fit(FromFile(Network(path="somewhere")), 8, 1, max_epochs=1, precision=precision)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    x, y, weight = rows()
    again = FromFile(Network(path="somewhere"))
    runner = pl.Trainer(max_epochs=2, precision=precision, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    batches = DataLoader([(x, y, weight)], batch_size=None)  # type: ignore[arg-type]
    runner.fit(again, batches, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.network[0].weight.dtype == {"bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]


def test_a_changed_frozen_weight_is_kept(tmp_path: Path) -> None:
    """What was written into a frozen weight after it was built is not in the base, so it is in the checkpoint."""
    module = FromPath(Network(path="somewhere"))
    module.configure_model()
    with torch.no_grad():
        module.network[0].bias.add_(1)  # type: ignore[index]
    trainer = fit(module, 8, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert "network.0.bias" in torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    again = FromPath.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(again.network[0].bias, module.network[0].bias)  # type: ignore[index]


def test_nothing_to_train_is_an_error() -> None:
    network = linear().requires_grad_(False)
    with pytest.raises(ConfigError, match="at least one trainable parameter"):
        fit(Weighted(network), 8, 1)


def test_network_mapping_refuses_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match="did you mean 'path'"):
        Method({"pth": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(warmup=4), [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        (Linear(), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (Cosine(final=0.5), [0.5 + 0.25 * (1 + torch.cos(torch.tensor(torch.pi * i / 10)).item()) for i in range(10)]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = schedule.configure(optimizer, 10)["scheduler"]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


def test_schedules_refuse_nonsense() -> None:
    for wrong in (-0.1, 1.5):
        with pytest.raises(ConfigError, match="warmup"):
            Cosine(warmup=wrong)
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        Linear().configure(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), float("inf"))
