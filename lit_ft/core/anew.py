"""Whether a fit begins anew or goes on."""

import lightning.pytorch as pl


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
