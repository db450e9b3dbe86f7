"""Where a fit stands: whether it begins anew or goes on, how many steps it made, whether an epoch is its last one."""

import copy
import math

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either


def begins_anew(trainer: pl.Trainer, stage: str) -> bool:
    """Whether a callback resets, in ``setup``, the state that an earlier fit left in it.

    It does so if the trainer has not made a step yet: the same object may serve several runs in a notebook. A second
    ``fit`` of one trainer goes on after its earlier steps, with the state of its callbacks. A resumed run gets their
    state from the checkpoint, which is loaded after ``setup``.

    See also: :func:`from_its_start`.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1)
        >>> begins_anew(trainer, "fit")  # a second fit of this trainer would go on
        False
    """
    return stage == "fit" and trainer.global_step == 0


def from_its_start(trainer: pl.Trainer) -> bool:
    """Whether a run neither resumes nor continues an earlier fit of its trainer; for ``on_fit_start`` and later hooks.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1)
        >>> from_its_start(trainer)
        False
    """
    return trainer.ckpt_path is None and trainer.global_step == 0


def passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of ``every`` lies above ``before`` and not above ``now``.

    Example:
        >>> [passed(5, before, before + 2) for before in (2, 4, 6, 8)]  # two optimizer steps a batch
        [False, True, False, True]
    """
    return now // every > before // every


class StepCounter:
    """Says whether the optimizer steps of a fit have passed a multiple of a number since it was asked last.

    A step of training is one optimizer step, or several where a module optimises by hand: with two optimizers they are
    counted 2, 4, 6, and 5 is passed at 6.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class EveryThird(pl.Callback):
        ...     steps = StepCounter()
        ...     def on_train_start(self, trainer, module):
        ...         self.steps.begin(trainer)
        ...     def on_train_batch_end(self, trainer, *_):
        ...         if self.steps.passed(trainer, every=3):
        ...             print(trainer.global_step)
        >>> _ = fit_foreign([EveryThird()], max_steps=7)
        3
        6
    """

    def __init__(self) -> None:
        self._asked = 0

    def begin(self, trainer: pl.Trainer) -> None:
        """Count from here; for ``on_train_start``, where a resumed run has its steps again."""
        self._asked = trainer.global_step

    def passed(self, trainer: pl.Trainer, every: int | None) -> bool:
        """Whether a multiple of ``every`` was passed; None has none."""
        before, self._asked = self._asked, trainer.global_step
        return every is not None and passed(every, before, trainer.global_step)


def share_of_steps(trainer: pl.Trainer, argument: str, share: float) -> float:
    """The number of optimizer steps that is a share of all steps of a fit.

    Args:
        trainer: The trainer of the fit.
        argument: Name of the argument that holds the share, for errors.
        share: From 0 to 1.

    Raises:
        ConfigError: The length of the fit is not known, in steps.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=8)
        >>> share_of_steps(trainer, "start", 0.75)
        6.0
    """
    if share and not trainer.lightning_module.automatic_optimization:
        allowed = "a number of steps, as one batch of a module that optimises by hand may be several"
        raise ConfigError(argument, share, allowed)
    if share < 1 and math.isinf(trainer.estimated_stepping_batches):
        raise ConfigError(argument, share, "a number of steps, as the length of the run is not known")
    return share * trainer.estimated_stepping_batches


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether training ends with this epoch; for ``on_train_epoch_end``.

    Results of that hook are in the last checkpoint and in the report, which are written in ``on_train_end``, before
    later callbacks in the list. Lightning runs ``EarlyStopping`` after all other callbacks, wherever it stands; its
    decision is anticipated here, except for a key that the module logs in its own ``on_train_epoch_end``.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Ends(pl.Callback):
        ...     def on_train_epoch_end(self, trainer, module):
        ...         print(trainer.current_epoch, training_ends(trainer))
        >>> _ = fit_foreign([Ends()], max_epochs=2)
        0 False
        1 True
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
    kinds = either(EarlyStopping)
    return [one for one in callbacks if isinstance(one, kinds) and one.monitor in known]


def _stops(trainer: pl.Trainer, monitor: EarlyStopping) -> bool:
    """Whether it is about to stop training; a copy is asked, so that patience is not counted twice."""
    before, trainer.should_stop = trainer.should_stop, False
    asked = copy.copy(monitor)
    asked.verbose = False
    try:
        asked.on_train_epoch_end(trainer, trainer.lightning_module)
        return trainer.should_stop
    finally:
        trainer.should_stop = before
