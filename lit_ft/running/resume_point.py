"""The progress counters of a checkpoint, written so that Lightning resumes with exactly the next batch.

Lightning's own checkpoints are taken inside the hooks of a batch: the values of that batch are not logged yet, and a
validation that is due at it has not run. Ours are taken between two batches. ``mark`` gives the counters of such a
checkpoint the one form from which Lightning 2.6 neither repeats nor skips a batch, a validation or a logged step: the
form of a batch that was fetched and not begun. ``settle`` corrects the state that Lightning leaves behind.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer import call

from lit_ft.core.passes.randomness import Randomness
from lit_ft.running.averaged import KEY, go_on_from
from lit_ft.running.epoch_starts import EpochStarts, noted
from lit_ft.running.epoch_state import epoch_state, restore_epoch_state
from lit_ft.running.fetches import Fetches, Position


def mark(checkpoint: dict[str, Any], batches_per_epoch: float, accumulate: int) -> None:
    """Rewrite the counters in ``checkpoint["loops"]["fit_loop"]``.

    Args:
        checkpoint: Taken between two batches; changed in place.
        batches_per_epoch: Training batches of an epoch.
        accumulate: Batches of an optimizer step.

    See also: :func:`settle`.

    Example:
        >>> from lit_ft.classification.numbers import NoisyLinear
        >>> from lit_ft.classification.regression import Regression
        >>> network = {"config": {"model_type": "mlp", "width": 4, "depth": 1}}
        >>> trainer = pl.Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(Regression(network), NoisyLinear())  # 3 of the 8 batches of an epoch
        >>> checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        >>> mark(checkpoint, batches_per_epoch=8, accumulate=1)
        >>> checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]  # the fourth is fetched
        {'ready': 4, 'started': 3, 'processed': 3, 'completed': 3}
    """
    loop = checkpoint["loops"]["fit_loop"]
    batch, epoch, state = loop["epoch_loop.batch_progress"], loop["epoch_progress"], loop["epoch_loop.state_dict"]
    done = batch["current"]["completed"]
    epoch_closed = epoch["total"]["processed"] == epoch["total"]["ready"]
    if is_over(loop, batches_per_epoch):  # stand before the first batch of the next epoch
        done = 0
        optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for progress in (optimizer["step"], optimizer["zero_grad"], loop["epoch_loop.scheduler_progress"]):
            progress["current"] = dict.fromkeys(progress["current"], 0)
        validation = loop["epoch_loop.val_loop.batch_progress"]
        validation["total"] = dict.fromkeys(validation["total"], 0)
        if epoch_closed:  # the hooks of its start are to come
            for counter in (epoch["total"], epoch["current"]):
                counter["ready"] += 1
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


def is_over(loop: dict[str, Any], batches_per_epoch: float) -> bool:
    """Whether no batch of an epoch is left, for the counters of a fit loop; a loader without a length shows its end."""
    epoch, batch = loop["epoch_progress"]["total"], loop["epoch_loop.batch_progress"]
    closed = epoch["processed"] == epoch["ready"]
    return batch["current"]["completed"] >= batches_per_epoch or (closed and batch["is_last_batch"])


def settle(trainer: pl.Trainer, loader_states: list[dict[str, Any]]) -> None:
    """Correct counters and loaders at the start of a resumed training, after Lightning has found the kind of restart.

    Afterwards no batch counts as fetched, and loaders are at the position of the checkpoint, even if they were made
    before it was read, as when ``configure_optimizers`` asks for the length of the run.

    See also: :func:`mark`.

    Example:
        >>> from lit_ft.classification.numbers import NoisyLinear
        >>> from lit_ft.classification.regression import Regression
        >>> class Resumed(pl.Callback):
        ...     def on_train_start(self, trainer, module):
        ...         total = trainer.fit_loop.epoch_loop.batch_progress.total
        ...         total.ready = 1  # a checkpoint of mark: a batch was fetched and not begun
        ...         settle(trainer, loader_states=[])
        ...         print(total.ready, total.completed)
        >>> network = {"config": {"model_type": "mlp", "width": 4, "depth": 1}}
        >>> trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, callbacks=[Resumed()])
        >>> trainer.fit(Regression(network), NoisyLinear())
        0 0
    """
    loop = trainer.fit_loop
    total, epoch = loop.epoch_loop.batch_progress.total, loop.epoch_progress
    total.ready = total.completed
    if epoch.total.started < epoch.total.ready:  # type: ignore[attr-defined]  # not begun; typed as the base of what it is
        epoch.current.ready = epoch.total.ready
    loop._restarting = False  # else it leaves ReduceLROnPlateau as it is at the end of this epoch
    if loader_states and loop._combined_loader is not None and loop._data_fetcher is not None:
        loop._combined_loader._load_state_dicts(loader_states)
        iter(loop._data_fetcher)


def end_again(trainer: pl.Trainer) -> None:
    """Do what the end of a training does, in a resumed run that has no step left to make.

    Such a run was killed between its last checkpoint and its end. Lightning skips all hooks of its training, and with
    them the files that callbacks write in ``on_train_end``. For ``on_fit_end``.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> from lit_ft.callbacks import RunCheckpoint
        >>> class Ends(pl.Callback):
        ...     def on_train_end(self, trainer, module):
        ...         print("the end of step", trainer.global_step, "in epoch", trainer.current_epoch)
        ...     def on_fit_end(self, trainer, module):
        ...         end_again(trainer)
        >>> _ = fit_foreign([RunCheckpoint(folder="saved")], max_steps=3)
        >>> _ = fit_foreign([RunCheckpoint(folder="saved"), Ends()], resume="saved/step=00000003.ckpt", max_steps=3)
        the end of step 3 in epoch 1
    """
    loop = trainer.fit_loop
    if loop.epoch_loop.batch_progress.current.completed:  # an epoch that ends early is complete, as in ``mark``
        current: Any = loop.epoch_progress.current
        current.processed, current.completed = current.processed + 1, current.completed + 1
    for hook in ("on_train_start", "on_train_end"):
        call._call_callback_hooks(trainer, hook)
        call._call_lightning_module_hook(trainer, hook)


def add_resume_point(
    checkpoint: dict[str, Any], trainer: pl.Trainer, fetches: Fetches, summed: dict[str, Any] | None, rows: list[int]
) -> None:
    """Write into a checkpoint where its run stands: counters, loaders, and of every process randomness and sums.

    Args:
        checkpoint: Taken between two batches; changed in place.
        trainer: The trainer.
        fetches: Knows where loaders stood before each fetch.
        summed: What the epoch had summed up at its end, which may have come inside of it.
        rows: Rows of the logs so far.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batch = loop["epoch_loop.batch_progress"]["current"]
    begun = batch["ready"] > batch["completed"]
    over = not begun and is_over(loop, trainer.num_training_batches)
    position = fetches.before_this_batch(trainer) if begun else fetches.before_next_batch(trainer, over)
    sums = summed if summed is not None and not begun and not over else epoch_state(trainer)
    own: Any = (Randomness().plain(), position.plain(), sums)
    everyones: list[Any] = [own]
    if trainer.world_size > 1:
        everyones = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyones, own)
    randomness, positions, of_epoch = (list(parts) for parts in zip(*everyones, strict=True))
    checkpoint["run_checkpoint"] = {"randomness": randomness, "rows": rows, "positions": positions}
    checkpoint["epoch_state"] = of_epoch
    checkpoint["run_checkpoint"]["epoch_starts"] = noted(checkpoint, trainer)
    mark(checkpoint, trainer.num_training_batches, trainer.accumulate_grad_batches)
    loop["state_dict"].pop("combined_loader", None)
    if position.iterate is not None:  # a new epoch begins, which may be one of other rows
        checkpoint["run_checkpoint"]["loaders"] = position.loaders
    elif position.loaders:
        loop["state_dict"]["combined_loader"] = position.loaders


class ResumePoint:
    """Where the run of a checkpoint goes on.

    Args:
        checkpoint: What :func:`add_resume_point` has written, also in an earlier version.

    See also: :func:`settle`.
    """

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        loop, saved = checkpoint["loops"]["fit_loop"], checkpoint["run_checkpoint"]
        self.rows, self._randomness = saved["rows"], saved["randomness"]
        self._positions, self._sums = saved.get("positions", []), checkpoint.get("epoch_state", [])
        self._loaders = saved.get("loaders", loop["state_dict"].get("combined_loader", []))
        self._validation = loop["epoch_loop.val_loop.batch_progress"]
        self._inside = loop["epoch_loop.batch_progress"]["current"]["completed"] > 0
        self._epoch_starts = EpochStarts(saved.get("epoch_starts", {}))
        self._current = checkpoint.get(KEY, {})

    def before_training(self, trainer: pl.Trainer, fetches: Fetches) -> None:
        """Bring weights, counters and loaders to the point; for ``on_train_start``."""
        go_on_from(self._current, trainer.lightning_module)
        self._epoch_starts.before_training(trainer)
        if len(self._positions) != trainer.world_size:
            settle(trainer, self._loaders)
            return
        settle(trainer, [])
        fetches.go_to(trainer, Position.of(self._positions[trainer.global_rank], self._loaders))

    def before_first_batch(self, trainer: pl.Trainer) -> None:
        """Bring randomness, validation and sums to the point, when the first batch has begun."""
        self._epoch_starts.before_first_batch(trainer)
        rank, world = trainer.global_rank, trainer.world_size
        fetched = len(self._positions) != world or self._positions[rank]["fetched"]
        if len(self._randomness) == world and fetched:
            Randomness.of(self._randomness[rank]).restore()
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.load_state_dict(self._validation)
        if len(self._sums) == world:
            restore_epoch_state(trainer, self._sums[rank], self._inside)
