"""The progress counters of a checkpoint, written so that Lightning resumes with exactly the next batch.

Lightning's own checkpoints are taken inside the hooks of a batch: the values of that batch are not logged yet, and a
validation that is due at it has not run. Ours are taken between two batches. ``mark`` gives the counters of such a
checkpoint the one form from which Lightning 2.6 neither repeats nor skips a batch, a validation or a logged step: the
form of a batch that was fetched and not begun. ``settle`` puts right what Lightning leaves behind.
"""

from typing import Any

import lightning.pytorch as pl


def mark(checkpoint: dict[str, Any], batches_per_epoch: float, accumulate: int) -> None:
    """Rewrite the counters in ``checkpoint["loops"]["fit_loop"]``; the checkpoint was taken between two batches."""
    loop = checkpoint["loops"]["fit_loop"]
    batch, epoch, state = loop["epoch_loop.batch_progress"], loop["epoch_progress"], loop["epoch_loop.state_dict"]
    done = batch["current"]["completed"]
    epoch_closed = epoch["total"]["processed"] == epoch["total"]["ready"]
    if done >= batches_per_epoch:  # the epoch is over: stand before the first batch of the next one
        done = 0
        optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for progress in (optimizer["step"], optimizer["zero_grad"], loop["epoch_loop.scheduler_progress"]):
            progress["current"] = dict.fromkeys(progress["current"], 0)
        validation = loop["epoch_loop.val_loop.batch_progress"]
        validation["total"] = dict.fromkeys(validation["total"], 0)
        if epoch_closed:
            for counter in (epoch["total"], epoch["current"]):
                counter["ready"] += 1
                counter["started"] += 1
    elif epoch_closed:  # max_steps ended the run inside an epoch, which Lightning then counts as complete
        for counter in (epoch["total"], epoch["current"]):
            counter["processed"] -= 1
            counter["completed"] -= 1
    batch["current"] = {"ready": done + 1, "started": done, "processed": done, "completed": done}
    batch["total"]["ready"] = batch["total"]["completed"] + 1
    batch["is_last_batch"] = False
    # on restart Lightning counts one logged step more when the fetched batch closes a window
    if (done + 1) % accumulate == 0 or done + 1 == batches_per_epoch:
        state["_batches_that_stepped"] -= 1


def settle(trainer: pl.Trainer, loader_states: list[dict[str, Any]]) -> None:
    """At the start of a resumed training, when Lightning has found out what kind of restart it is.

    No batch is fetched; and loaders stand where the checkpoint says, even if they were made before it was read, as
    they are when ``configure_optimizers`` asked for the length of the run.
    """
    loop = trainer.fit_loop
    total = loop.epoch_loop.batch_progress.total
    total.ready = total.completed
    if loader_states and loop._combined_loader is not None and loop._data_fetcher is not None:
        loop._combined_loader._load_state_dicts(loader_states)
        iter(loop._data_fetcher)
