"""Every n optimizer steps, where a batch is one step, two, or sometimes more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_ft.callbacks import SWAG, Forgetting, LotteryTicket, RunCheckpoint, TrainingFlops
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import StepCounter
from lit_ft.testing import difference
from tests.contracts.foreign.project import Net, Rows, fit, seeded

pytestmark = pytest.mark.usefixtures("empty_folder")


class GAN(Net):
    """Two optimizers take a step each in a batch."""

    automatic_optimization = False
    more_at = -1

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
        if self.global_step == self.more_at:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.enc, self.head)]


class Critic(GAN):
    """One step more in one batch, after which all counts are odd."""

    more_at = 2


def kept(folder: str) -> list[int]:
    return sorted(int(path.stem.removeprefix("step=")) for path in Path(folder).glob("*.ckpt"))


# steps after each batch: 1 2 3 ..., or 2 4 6 ..., or 3 5 7 ...
WANTED = {
    (Net, 5): [5, 10, 12],
    (GAN, 5): [6, 10, 16, 20, 24],
    (GAN, 3): [4, 6, 10, 12, 16, 18, 22, 24],
    (Critic, 4): [5, 9, 13, 17, 21, 25],
    (Critic, 100): [25],
}


LEFT = {(Net, 5): 1, (GAN, 5): 1, (GAN, 3): 0, (Critic, 4): 0, (Critic, 100): 1}


@pytest.mark.parametrize(("make", "every"), WANTED)
def test_a_multiple_is_passed_in_whatever_strides(make: type[Net], every: int) -> None:
    forgetting, swag = Forgetting({"old": Rows()}, every_n_steps=every), SWAG(0.0, every)
    fit(seeded(make), RunCheckpoint(every, keep=99, folder="run"), forgetting, swag, max_epochs=2)
    assert kept("run") == WANTED[make, every]
    assert forgetting.steps == [0, *WANTED[make, every]]
    assert swag.weights.count == len(WANTED[make, every]) - LEFT[make, every], "at the end only what is due"


def test_it_counts_on_after_a_resume() -> None:
    whole = seeded(GAN)
    swag = SWAG(0.0, 5)
    fit(whole, RunCheckpoint(2, keep=99, folder="whole"), swag, max_epochs=2)
    for step in (4, 8, 10, 14):
        part, again = seeded(GAN), SWAG(0.0, 5)
        fit(part, RunCheckpoint(5, keep=99, folder=f"from {step}"), again, max_epochs=2,
            ckpt=Path(f"whole/step={step:08d}.ckpt"))  # fmt: skip
        assert not difference(dict(part.state_dict()), dict(whole.state_dict()))
        assert not difference(again.state_dict(), swag.state_dict())
        assert kept(f"from {step}") == [at for at in (6, 10, 16, 20, 24) if at > step]


class Strides(Callback):
    """Notes when a multiple was passed, asked after each batch."""

    def __init__(self, every: int) -> None:
        self.every, self.steps, self.seen = every, StepCounter(), []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.begin(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.steps.passed(trainer, self.every):
            self.seen.append(trainer.global_step)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_with_one_optimizer_it_is_each_multiple_once(every: int, accumulate: int) -> None:
    strides = Strides(every)
    trainer = fit(seeded(Net), strides, max_epochs=3, accumulate_grad_batches=accumulate)
    assert strides.seen == list(range(every, trainer.global_step + 1, every))


@pytest.mark.parametrize("callback", [lambda: SWAG(0.5, 2), lambda: LotteryTicket(0.5, 0.1)])
def test_a_share_of_steps_that_nobody_knows_is_refused(callback: Any) -> None:
    with pytest.raises(ConfigError, match=r"0.5; allowed: a number of steps, as one batch"):
        fit(seeded(GAN), callback())
    fit(seeded(GAN), SWAG(3, 2))


def test_zeros_are_counted_at_multiples() -> None:
    flops = TrainingFlops(every_n_steps=5)
    fit(seeded(GAN), flops, max_epochs=1, max_steps=9)
    assert flops.state_dict()["counted_at"] == 6
