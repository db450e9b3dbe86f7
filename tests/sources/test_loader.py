import random
from itertools import chain

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import PlannedSampler, make_loader

ROWS = [{"number": i} for i in range(23)]


def noisy(rows):
    """A collator that draws from every generator, as masking and augmentation do."""
    numbers = torch.tensor([row["number"] for row in rows])
    draws = torch.tensor([torch.rand(()).item(), float(np.random.rand()), random.random()])
    return {"numbers": numbers, "draws": draws}


def loader(workers=0, batch_size=3, **arguments):
    return make_loader(ROWS, shuffled_batches(23, batch_size, seed=1), noisy, seed=7, num_workers=workers, **arguments)


class Recorder(pl.LightningModule):
    """Writes down what it is given; the weight depends on the order too."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.trainer.current_epoch, batch["numbers"].tolist(), batch["draws"].tolist()))
        return ((self.weight - batch["draws"] * batch["numbers"].float().mean()) ** 2).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class SaveOnce(pl.Callback):
    """A checkpoint after a given number of batches over all epochs, from one of the hooks that people save in."""

    def __init__(self, path, batches, hook="on_train_batch_end"):
        self.path, self.batches, self.count = path, batches, 0
        self.hook = hook

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.count += 1
        if self.count == self.batches and self.hook == "on_train_batch_end":
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, module):
        if self.count == self.batches and self.hook == "on_train_epoch_end":
            trainer.save_checkpoint(self.path)


def fit(path=None, save=None, train=None, **arguments):
    module = Recorder()
    settings = {"max_epochs": 3} | arguments
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[save] if save else [], **settings,
    )  # fmt: skip
    trainer.fit(module, train if train is not None else loader(), ckpt_path=path, weights_only=True if path else None)
    return module


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("accumulate", "at"), [(1, 3), (1, 11), (1, 8), (1, 16), (2, 2), (2, 12), (2, 8)])
def test_stopped_anywhere_and_resumed_sees_what_an_uninterrupted_run_sees(tmp_path, workers, accumulate, at):
    whole = fit(save=SaveOnce(tmp_path / "a.ckpt", at), accumulate_grad_batches=accumulate)
    assert len(whole.seen) == 3 * 8
    again = fit(path=tmp_path / "a.ckpt", train=loader(workers), accumulate_grad_batches=accumulate)
    assert again.seen == whole.seen[at:]
    assert torch.equal(again.weight, whole.weight)


def test_a_plain_loader_does_not_resume(tmp_path):
    def plain():
        return torch.utils.data.DataLoader(ROWS, batch_size=3, shuffle=True, collate_fn=noisy)

    torch.manual_seed(0)
    whole = fit(save=SaveOnce(tmp_path / "a.ckpt", 3), train=plain())
    torch.manual_seed(0)
    again = fit(path=tmp_path / "a.ckpt", train=plain())
    assert again.seen != whole.seen[3:]


@pytest.mark.parametrize(
    ("limits", "hook", "epochs"),
    [
        ({"max_epochs": -1, "max_steps": 20}, "on_train_batch_end", 1),
        ({"max_epochs": -1, "max_steps": 20}, "on_train_batch_end", 2),
        ({"limit_train_batches": 5}, "on_train_batch_end", 2),
        ({"limit_train_batches": 5}, "on_train_epoch_end", 1),
        ({}, "on_train_epoch_end", 2),
    ],
)
def test_end_of_an_epoch_resumes_with_the_next(tmp_path, limits, hook, epochs):
    at = epochs * limits.get("limit_train_batches", 8)
    whole = fit(save=SaveOnce(tmp_path / "a.ckpt", at, hook), **limits)
    again = fit(path=tmp_path / "a.ckpt", **limits)
    assert again.seen == whole.seen[at:]
    assert torch.equal(again.weight, whole.weight)


def test_workers_change_nothing_and_no_global_generator_is_touched():
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    alone = list(loader())
    helped = list(loader(workers=2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()
    assert all(torch.equal(a["numbers"], b["numbers"]) for a, b in zip(alone, helped, strict=True))
    assert all(torch.equal(a["draws"], b["draws"]) for a, b in zip(alone, helped, strict=True))
    assert len({tuple(batch["draws"].tolist()) for batch in alone}) == len(alone), "every batch draws anew"


def test_resume_in_a_plain_loop_keeps_the_length():
    first, second = loader(), loader(workers=2)
    iterator = iter(first)
    head = [next(iterator) for _ in range(5)]
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert len(second) == len(first) == 8
    tail = list(second)
    whole = [batch["numbers"].tolist() for batch in loader()]
    assert [batch["numbers"].tolist() for batch in head + tail] == whole
    third = loader()
    third.load_state_dict(second.state_dict())
    assert third.sampler.epoch == 1
    assert [batch["numbers"].tolist() for batch in third] != whole
    assert len(list(third)) == 8


def test_other_data_than_in_the_checkpoint_is_noticed():
    state = loader().state_dict()
    with pytest.warns(UserWarning, match="does not continue"):
        loader(batch_size=4).load_state_dict(state)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_the_batches_equally(world):
    plan = shuffled_batches(23, 3, seed=1)

    def shares(training):
        samplers = [PlannedSampler(plan, training=training, num_replicas=world, rank=rank) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(4)
        counts = {len(list(sampler)) for sampler in samplers} | {len(sampler) for sampler in samplers}
        assert len(counts) == 1, "a rank with another number of batches hangs in the collectives"
        keys = [key for sampler in samplers for key, _ in sampler]
        assert len(set(keys)) == len(keys), "two ranks would draw the same random numbers"
        return [[rows for _, rows in sampler] for sampler in samplers]

    train, test = shares(True), shares(False)
    for rank in range(world):
        assert train[rank][:1] == plan(4)[rank::world][:1]
    assert set(chain(*chain(*train))) == set(range(23))
    assert sorted(chain(*chain(*test))) == list(range(23)), "evaluation repeats no row and leaves none out"


def test_too_few_rows_for_the_ranks_are_refused():
    with pytest.raises(ConfigError, match="rows for evaluation"):
        list(PlannedSampler(shuffled_batches(2, 1), training=False, num_replicas=3, rank=0))


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
@pytest.mark.parametrize(("batches", "number"), [(1, 1), (2, 2), (0.5, 4)])
@pytest.mark.parametrize("workers", [0, 2])
def test_overfitting_takes_the_same_batches_in_every_epoch(batches, number, workers, tmp_path):
    first = [batch["numbers"].tolist() for batch in loader()][:number]
    save = SaveOnce(tmp_path / "a.ckpt", number)
    whole = fit(save=save, train=loader(workers), overfit_batches=batches)
    assert [numbers for _, numbers, _ in whole.seen] == first * 3
    assert len({tuple(draws) for _, _, draws in whole.seen}) == 3 * number
    resumed = fit(tmp_path / "a.ckpt", train=loader(workers), overfit_batches=batches)
    assert resumed.seen == whole.seen[number:]


def test_predict_takes_the_rows_in_order():
    class Numbers(Recorder):
        def predict_step(self, batch, batch_idx):
            return batch["numbers"]

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    rows = make_loader(ROWS, shuffled_batches(23, 4, shuffle=False), noisy, training=False)
    assert torch.cat(trainer.predict(Numbers(), rows)).tolist() == list(range(23))
