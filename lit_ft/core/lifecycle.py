"""Where a fit stands: whether it begins anew or goes on, and whether an epoch is its last one."""

import copy

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping


def begins_anew(trainer: pl.Trainer, stage: str) -> bool:
    """Whether a callback forgets in ``setup`` what an earlier fit has left in it.

    So it does where the trainer has not made a step: the same object may serve several runs in a notebook. A second
    ``fit`` of one trainer goes on after the steps it has made, and with what its callbacks know. A run that resumes
    gets their state from the checkpoint, which is read after ``setup``.
    """
    return stage == "fit" and trainer.global_step == 0


def from_its_start(trainer: pl.Trainer) -> bool:
    """Whether a run neither resumes nor goes on with its trainer; asked in ``on_fit_start`` and later."""
    return trainer.ckpt_path is None and trainer.global_step == 0


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether no batch follows; asked in ``on_train_epoch_end``.

    What a callback does there is in the last checkpoint and in the report, which are written in ``on_train_end`` before
    later callbacks of the list get their turn. Lightning asks its ``EarlyStopping`` after all other callbacks, wherever
    it stands; what it is going to say is said here. It is not known of a key that the module logs in its own
    ``on_train_epoch_end``.
    """
    loop = trainer.fit_loop
    steps, epochs = loop.max_steps, loop.max_epochs
    by_steps = steps not in (-1, None) and trainer.global_step >= steps
    by_epochs = epochs is not None and epochs != -1 and loop.epoch_progress.current.processed >= epochs  # type: ignore[attr-defined]
    if by_steps or by_epochs:
        return True
    return loop._can_stop_early and (trainer.should_stop or any([_stops(trainer, one) for one in _monitors(trainer)]))


def _monitors(trainer: pl.Trainer) -> list[EarlyStopping]:
    known = trainer.callback_metrics
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if isinstance(one, EarlyStopping) and one.monitor in known]


def _stops(trainer: pl.Trainer, monitor: EarlyStopping) -> bool:
    """Whether it is about to stop the training; a copy is asked, so that it counts its patience once."""
    before, trainer.should_stop = trainer.should_stop, False
    asked = copy.copy(monitor)
    asked.verbose = False
    try:
        asked.on_train_epoch_end(trainer, trainer.lightning_module)
        return trainer.should_stop
    finally:
        trainer.should_stop = before
