"""Whether an epoch is the last one of a fit."""

import lightning.pytorch as pl


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether no batch follows; asked in ``on_train_epoch_end``.

    What a callback does there is in the last checkpoint and in the report, which are written in ``on_train_end`` before
    later callbacks of the list get their turn.
    """
    loop = trainer.fit_loop
    steps, epochs = loop.max_steps, loop.max_epochs
    by_steps = steps not in (-1, None) and trainer.global_step >= steps
    by_epochs = epochs is not None and epochs != -1 and loop.epoch_progress.current.processed >= epochs  # type: ignore[attr-defined]
    return bool(by_steps or by_epochs or trainer.should_stop)
