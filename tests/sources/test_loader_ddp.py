"""Two gloo processes: equal numbers of batches, every row once in evaluation, and an exact resume."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from lit_ft.running.processes import run_ranks
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader

ROWS = 23


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.BatchNorm1d(1)  # DDP sends its buffers around: unequal numbers of batches would hang
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[:, 0].tolist())
        return self.layer(batch.float()).square().sum() + self.layer.weight.sum() * batch.float().mean()

    def on_validation_epoch_start(self):
        self.validated = []

    def validation_step(self, batch, batch_idx):
        self.layer(batch.float())
        self.validated += batch[:, 0].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Save(pl.Callback):
    def __init__(self, path, at):
        self.path, self.at, self.count = path, at, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.count += 1
        if self.count == self.at:
            trainer.save_checkpoint(self.path)


def loader(shuffle):
    rows = torch.arange(ROWS)[:, None]
    return make_loader(rows, shuffled_batches(ROWS, 5, seed=2, shuffle=shuffle), torch.stack, training=shuffle)


def fit(path, save, at=3):
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Save(path, at)] if save else [],
    )  # fmt: skip
    trainer.fit(module, loader(True), loader(False), ckpt_path=None if save else path, weights_only=not save or None)
    return module.seen, module.validated, module.layer.weight.item()


def whole_and_resumed(path):
    return fit(path, save=True), fit(path, save=False)


def test_two_processes_share_the_rows_and_resume(tmp_path):
    """Five batches for two processes: three each, one of them a repeat; evaluation cuts one in two instead."""
    (first, first_again), (second, second_again) = run_ranks(whole_and_resumed, 2, str(tmp_path / "a.ckpt"))
    plan = shuffled_batches(ROWS, 5, seed=2)
    for epoch in range(2):
        batches = plan(epoch)
        assert first[0][3 * epoch : 3 * epoch + 3] == batches[0::2]
        assert second[0][3 * epoch : 3 * epoch + 3] == [batches[1], batches[3], batches[0]]
    assert sorted(first[1] + second[1]) == list(range(ROWS))
    assert first_again[0] == first[0][3:]
    assert second_again[0] == second[0][3:]
    assert first_again[2] == first[2] == second[2]
