"""A resumed run does what is written now: options of parameter groups, and schedules at the step reached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, Rprop
from torch.optim import lr_scheduler as lrs

from lit_ft.core.errors import ConfigError
from lit_ft.core.fused import fused
from lit_ft.running.run_checkpoint import RunCheckpoint, newest_whole
from lit_ft.testing import ForeignModule, difference, fit_foreign

EPOCH = 11  # steps
Configure = Callable[[Any], Any]


def fit(folder: Path, configure: Configure, steps: int, resume: bool = False, **more: Any) -> Any:
    """The trainer after a fit of a foreign module with these optimizers, and the rates of its steps."""

    class Foreign(ForeignModule):
        def configure_optimizers(self) -> Any:
            return configure(self)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    rates: list[list[float]] = []
    last = newest_whole(folder / "checkpoints")[0] if resume else None
    limits = {"max_epochs": None, "max_steps": steps, **more}
    module, trainer = fit_foreign([RunCheckpoint()], folder, make_module=Foreign, resume=last, **limits)
    return module, trainer, [rate[0] if len(rate) == 1 else rate for rate in rates]


def groups(trainer: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizers[0].param_groups]


def scheduled(make: Callable[[Optimizer], Any], lr: float = 0.1, interval: str = "step", **more: Any) -> Configure:
    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=lr, momentum=0.9)
        return [optimizer], [{"scheduler": make(optimizer), "interval": interval, **more}]

    return configure


def cosine(steps: int) -> Callable[[Optimizer], Any]:
    """Its length is in a function, which no checkpoint holds."""
    return lambda o: lrs.LambdaLR(o, lambda step: 0.5 * (1 + torch.cos(torch.tensor(step / steps * 3.14)).item()))


OPTIONS = [
    (SGD, {"lr": 0.1}, {"lr": 0.5}),
    (SGD, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.5, "nesterov": True}),
    (AdamW, {"lr": 0.1}, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}),
    (AdamW, {"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.1, "weight_decay": 0.0}),
    (Adam, {"lr": 0.1}, {"lr": 0.1, "amsgrad": False, "maximize": True}),
]


@pytest.mark.parametrize(("kind", "old", "new"), OPTIONS)
def test_options_of_groups(kind: Any, old: Any, new: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, lambda m: kind(m.parameters(), **old), 5)
    assert not capsys.readouterr().err
    _, trainer, _ = fit(tmp_path, lambda m: kind(m.parameters(), **new), 8, resume=True)
    assert groups(trainer)[0] == {key: value for key, value in kind([torch.zeros(1)], **new).param_groups[0].items()
                                  if key != "params"}  # fmt: skip
    told = capsys.readouterr().err
    assert all(f"optimizer.{key}: " in told for key in new if old.get(key) != new[key] and key != "amsgrad")


@pytest.mark.parametrize(("kind", "now"), [
    (Adagrad, {"initial_accumulator_value": 2.0}), (Rprop, {"lr": 0.5}), (LBFGS, {"history_size": 2}),
])  # fmt: skip
def test_what_acts_in_the_first_step_alone_is_refused(kind: Any, now: Any, tmp_path: Path) -> None:
    def fit_with(resume: bool = False, **options: Any) -> None:
        fit(tmp_path, lambda m: kind(m.parameters(), **{"lr": 0.1, **options}), 4 if resume else 3, resume)

    fit_with()
    (name,) = now
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}: given .*, by which the state was made; to begin"):
        fit_with(resume=True, **now)
    fit_with(resume=True)


SWITCHED_ON = [
    (AdamW, {"amsgrad": True}, "max_exp_avg_sq"),
    (Adam, {"amsgrad": True}, "max_exp_avg_sq"),
    (RMSprop, {"centered": True}, "grad_avg"),
    (RMSprop, {"momentum": 0.9}, "momentum_buffer"),
    (SGD, {"momentum": 0.9}, "momentum_buffer"),
]


@pytest.mark.parametrize(("kind", "new", "buffer"), SWITCHED_ON)
def test_an_option_that_needs_a_buffer_can_be_switched_on(kind: Any, new: Any, buffer: str, tmp_path: Path) -> None:
    fit(tmp_path, lambda m: kind(m.parameters(), lr=0.01), 5)
    _, trainer, _ = fit(tmp_path, lambda m: kind(m.parameters(), lr=0.01, **new), 8, resume=True)
    states = trainer.optimizers[0].state.values()
    assert states
    assert all(state[buffer].abs().sum() > 0 for state in states)


def test_what_training_moved_is_not_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A callback halves the rate; the same writing goes on with the half, another rate wins."""

    def halving(lr: float) -> Configure:
        return lambda module: SGD(module.parameters(), lr=lr)

    def halve(folder: Path, lr: float, steps: int, resume: bool) -> float:
        class Halves(ForeignModule):
            def configure_optimizers(self) -> Any:
                return halving(lr)(self)

            def on_train_batch_end(self, *_: Any) -> None:
                if self.trainer.global_step == 3:
                    self.trainer.optimizers[0].param_groups[0]["lr"] /= 2

        last = newest_whole(folder / "checkpoints")[0] if resume else None
        _, trainer = fit_foreign([], folder, make_module=Halves, resume=last, max_epochs=None, max_steps=steps)
        return trainer.optimizers[0].param_groups[0]["lr"]

    assert halve(tmp_path, 0.1, 5, False) == 0.05
    assert halve(tmp_path, 0.1, 7, True) == 0.05
    assert not capsys.readouterr().err
    assert halve(tmp_path, 0.3, 9, True) == 0.3


SCHEDULES = {
    "longer": (scheduled(cosine(8)), scheduled(cosine(20))),
    "another rate": (scheduled(cosine(20)), scheduled(cosine(20), lr=0.3)),
    "step size": (scheduled(lambda o: lrs.StepLR(o, 2)), scheduled(lambda o: lrs.StepLR(o, 3, gamma=0.5))),
    "decay": (scheduled(lambda o: lrs.ExponentialLR(o, 0.9)), scheduled(lambda o: lrs.ExponentialLR(o, 0.8))),
    "milestones": (scheduled(lambda o: lrs.MultiStepLR(o, [30])), scheduled(lambda o: lrs.MultiStepLR(o, [3, 6]))),
    "one cycle": (
        scheduled(lambda o: lrs.OneCycleLR(o, 0.5, total_steps=20)),
        scheduled(lambda o: lrs.OneCycleLR(o, 0.9, total_steps=30)),
    ),
    "removed": (scheduled(lambda o: lrs.LinearLR(o, 1.0, 0.0, 8)), lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9)),
    "added": (lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9), scheduled(cosine(20))),
    "another class": (scheduled(cosine(8)), scheduled(lambda o: lrs.StepLR(o, 2))),
    "another interval": (
        scheduled(lambda o: lrs.StepLR(o, 2)),
        scheduled(lambda o: lrs.ExponentialLR(o, 0.5), interval="epoch"),
    ),
    "frequency": (
        scheduled(lambda o: lrs.ExponentialLR(o, 0.9)),
        scheduled(lambda o: lrs.ExponentialLR(o, 0.9), frequency=3),
    ),
    "in a chain": (
        scheduled(lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 4), cosine(8)(o)], [4])),
        scheduled(lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 4), cosine(20)(o)], [4])),
    ),
}


@pytest.mark.parametrize("steps", [8, EPOCH, EPOCH + 4])
@pytest.mark.parametrize("change", list(SCHEDULES))
def test_a_schedule_takes_its_value_at_the_step_reached(change: str, steps: int, tmp_path: Path) -> None:
    """Every later rate is that of a fresh run with the new schedule."""
    old, new = SCHEDULES[change]
    _, _, whole = fit(tmp_path / "whole", new, 20)
    fit(tmp_path / "parts", old, steps)
    _, trainer, rest = fit(tmp_path / "parts", new, 20, resume=True)
    assert rest == whole[steps:]
    assert trainer.global_step == 20


@pytest.mark.parametrize("change", list(SCHEDULES))
def test_the_same_schedule_goes_on_bit_by_bit(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = SCHEDULES[change][1]
    whole, _, _ = fit(tmp_path / "whole", same, 20)
    fit(tmp_path / "parts", same, 13)
    parts, _, _ = fit(tmp_path / "parts", same, 20, resume=True)
    assert not difference(dict(whole.state_dict()), dict(parts.state_dict()))
    assert not capsys.readouterr().err


def plateau(lr: float = 0.1, **arguments: Any) -> Configure:
    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=lr)
        scheduler = lrs.ReduceLROnPlateau(optimizer, **{"patience": 0, "threshold": 1e9, "factor": 0.5, **arguments})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}

    return configure


def test_a_plateau_keeps_its_history(tmp_path: Path) -> None:
    """Three epochs reduced the rate: keys that are written win, what happened stays."""
    for name in ("same", "rate", "keys"):
        fit(tmp_path / name, plateau(), 0, max_epochs=3, max_steps=-1)
    more = {"max_epochs": 4, "max_steps": -1}
    _, trainer, _ = fit(tmp_path / "same", plateau(), 0, resume=True, **more)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**4
    _, trainer, rates = fit(tmp_path / "rate", plateau(lr=0.2), 0, resume=True, **more)
    assert rates[0] == pytest.approx(0.2 * 0.125)
    _, trainer, rates = fit(tmp_path / "keys", plateau(factor=0.1, patience=5), 0, resume=True, **more)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert (rates[0], scheduler.factor, scheduler.patience, scheduler.num_bad_epochs) == (0.0125, 0.1, 5, 1)


def split(decay: float) -> Configure:
    """As a method does: no second group where nothing decays."""

    def configure(module: Any) -> Any:
        flat = [p for p in module.parameters() if p.ndim < 2]
        decayed = [p for p in module.parameters() if p.ndim >= 2]
        if not decay:
            return AdamW(module.parameters(), lr=0.01, weight_decay=0.0)
        return AdamW([{"params": decayed}, {"params": flat, "weight_decay": 0.0}], lr=0.01, weight_decay=decay)

    return configure


@pytest.mark.parametrize(("old", "new"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.2)])
def test_decay_switched_off_and_on(old: float, new: float, tmp_path: Path) -> None:
    """Parameters find their own moments in other groups: as if the decay had been changed by hand in the run."""

    class ByHand(ForeignModule):
        def configure_optimizers(self) -> Any:
            return split(0.1)(self)

        def on_train_batch_start(self, *_: Any) -> None:
            decay = old if self.trainer.global_step < 5 else new
            self.trainer.optimizers[0].param_groups[0]["weight_decay"] = decay

    whole, _ = fit_foreign([], tmp_path / "whole", make_module=ByHand, max_epochs=None, max_steps=9)
    fit(tmp_path / "parts", split(old), 5)
    parts, _, _ = fit(tmp_path / "parts", split(new), 9, resume=True)
    assert not difference(dict(whole.state_dict()), dict(parts.state_dict()))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, lambda m: SGD(m.parameters(), lr=0.1), 5)
    with pytest.raises(ConfigError, match=r"optimizer: given 'AdamW'; allowed: SGD, as in the checkpoint; .*--from"):
        fit(tmp_path, lambda m: AdamW(m.parameters()), 8, resume=True)
    with pytest.raises(ConfigError, match=r"optimizer: given 'groups of 2 parameters'; allowed: .*of 6; .*--from"):
        fit(tmp_path, lambda m: SGD(m.model[0].parameters(), lr=0.1), 8, resume=True)


def test_a_checkpoint_from_before_the_fused_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its groups say None, or False: what is built now wins and is told, and the run ends where it would have ended."""

    def kind(options: dict[str, Any], own: Callable[[Any], Any]) -> Configure:
        return lambda module: own(SGD(module.parameters(), lr=0.1, momentum=0.9, **options))

    ends = []
    for number, options in enumerate(({}, {"fused": False})):
        fit(tmp_path / str(number), kind(options, lambda optimizer: optimizer), 5)
        assert not capsys.readouterr().err
        module, trainer, _ = fit(tmp_path / str(number), kind({}, fused), 8, resume=True)
        assert f"optimizer.fused: {options.get('fused')} -> True" in capsys.readouterr().err
        assert trainer.optimizers[0].param_groups[0]["fused"] is True
        ends.append(module)
    whole, _, _ = fit(tmp_path / "whole", kind({}, fused), 8)
    assert not difference(ends[0].state_dict(), ends[1].state_dict())
    torch.testing.assert_close(ends[0].state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)
