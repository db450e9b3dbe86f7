"""Lengths and directions of grafted gradients against gradients by hand."""

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lit_ft.callbacks import GradientGrafting
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import ImageClassifier
from lit_ft.running.processes import run_ranks
from lit_ft.testing import ForeignModule, fit_foreign

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "limit_val_batches": 0}  # fmt: skip


def flat(tensors) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.cat([t.detach().flatten() for t in tensors])


def step(callbacks: list[pl.Callback], tmp_path, parts: int) -> tuple[Tensor, ImageClassifier, list]:  # type: ignore[no-untyped-def, type-arg]
    """What one step of gradient descent at rate 1 takes off the weights, over uneven micro-batches."""
    torch.manual_seed(0)
    facts = {"num_classes": 10, "input_shape": [64]}
    network = {"config": {"model_type": "mlp", "width": 6, "depth": 1}}
    method = ImageClassifier(network, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), **facts)
    method.configure_model()
    before = flat(method.parameters())
    data = Digits(batch_size=30, flat=True, max_rows=70)  # 30 + 30 + 10 rows
    trainer = pl.Trainer(max_steps=1, accumulate_grad_batches=parts, callbacks=callbacks, default_root_dir=tmp_path,
                         **QUIET)  # fmt: skip
    trainer.fit(method, data)
    batches = list(data.train_dataloader())
    moved = before - flat(method.parameters())
    torch.manual_seed(0)
    method = ImageClassifier(network, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), **facts)
    method.configure_model()
    return moved, method, batches


def gradient(method: ImageClassifier, batches: list) -> Tensor:  # type: ignore[type-arg]
    rows = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return flat(torch.autograd.grad(method.compute(rows).loss, list(method.parameters())))


def test_direction_of_the_window_and_length_of_its_first_micro_batch(tmp_path) -> None:  # type: ignore[no-untyped-def]
    moved, method, batches = step([GradientGrafting()], tmp_path, parts=3)
    whole, first = gradient(method, batches), gradient(method, batches[:1])
    assert first.norm() > 1.02 * whole.norm()
    torch.testing.assert_close(moved, whole * first.norm() / whole.norm(), atol=1e-5, rtol=1e-4)


def test_a_first_micro_batch_without_weight_has_no_say(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class First(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):  # type: ignore[no-untyped-def]
            batch["weight"] = torch.tensor(0.0 if batch_idx == 0 else 1.0)

    monkeypatch.setattr(ImageClassifier, "loss_weight", lambda self, batch: batch.get("weight", torch.tensor(1.0)))
    with_it, _, _ = step([First(), GradientGrafting()], tmp_path, parts=3)
    without, _, _ = step([First()], tmp_path, parts=3)
    assert torch.equal(with_it, without)
    assert with_it.norm() > 0


def test_normalised_gradient_descent(tmp_path) -> None:  # type: ignore[no-untyped-def]
    moved, method, batches = step([GradientGrafting(0.3)], tmp_path, parts=3)
    whole = gradient(method, batches)
    torch.testing.assert_close(moved, 0.3 * whole / whole.norm(), atol=1e-6, rtol=1e-4)


def test_a_window_of_one_micro_batch_stays_as_it_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with_it, _, _ = step([GradientGrafting()], tmp_path, parts=1)
    without, _, _ = step([], tmp_path, parts=1)
    assert torch.equal(with_it, without)


def test_every_window_of_a_foreign_module_gets_its_own_length() -> None:
    class Lengths(pl.Callback):
        norms: list[float]
        first: list[float]

        def __init__(self) -> None:
            self.norms, self.first = [], []

        def on_after_backward(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
            if trainer.fit_loop.epoch_loop.batch_idx % 2 == 0:
                self.first.append(2 * flat(p.grad for p in pl_module.parameters()).norm().item())

        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:  # type: ignore[no-untyped-def]
            self.norms.append(flat(p.grad for p in pl_module.parameters()).norm().item())

    seen = Lengths()
    fit_foreign([GradientGrafting(), seen], accumulate_grad_batches=2)
    assert len(seen.norms) == 12
    assert seen.norms == pytest.approx(seen.first, rel=1e-5)


class Norms(pl.Callback):
    """The norm of the gradient of each step, as it comes to this place in the list of callbacks."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:  # type: ignore[no-untyped-def]
        self.seen.append(flat(p.grad for p in pl_module.parameters()).norm().item())


class Unweighty(ImageClassifier):
    """Rank 0's rows count less in all micro-batches."""

    def loss_weight(self, batch) -> float:  # type: ignore[no-untyped-def]
        return len(batch["labels"]) * (0.2 if self.trainer.global_rank == 0 else 1.0)


def graft_on_ranks() -> tuple[list[float], list[float]]:
    before, after = Norms(), Norms()
    torch.manual_seed(0)
    method = Unweighty({"config": {"model_type": "mlp", "width": 6}}, num_classes=10, input_shape=[64])
    trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=2, strategy="ddp", devices=2,
                         callbacks=[before, GradientGrafting(), after], **QUIET)  # fmt: skip
    trainer.fit(method, Digits(batch_size=10, flat=True, max_rows=60))  # 3 micro-batches a rank
    return before.seen, after.seen


def test_a_last_window_of_one_micro_batch_stays_as_it_is_on_two_ranks() -> None:
    for before, after in run_ranks(graft_on_ranks, 2):
        assert len(before) == len(after) == 2
        assert after[0] != pytest.approx(before[0], rel=0.01)
        assert after[1] == before[1]


def test_a_foreign_modules_own_loss_weight_is_not_in_its_gradient() -> None:
    class Weighty(ForeignModule):
        def loss_weight(self, batch) -> float:  # type: ignore[no-untyped-def]
            return 7.0

    runs = [fit_foreign([GradientGrafting()], module=m, accumulate_grad_batches=2)[0] for m in (Weighty(), None)]
    for a, b in zip(*(run.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:`training_step` returned:UserWarning")
def test_a_first_micro_batch_without_loss_leaves_the_window_as_it_is() -> None:
    class Skips(ForeignModule):
        def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 == 0 else loss

    before, after = Norms(), Norms()
    fit_foreign([before, GradientGrafting(), after], module=Skips(), accumulate_grad_batches=2, limit_train_batches=10)
    assert len(before.seen) == 10
    assert after.seen == before.seen


@pytest.mark.parametrize("length", [0, -1.0, float("inf")])
def test_refuses(length: float) -> None:
    with pytest.raises(ConfigError, match="length"):
        GradientGrafting(length)
