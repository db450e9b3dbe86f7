"""Where loaders and random generators stand before a batch is fetched, so that a resumed run fetches the same one.

Lightning has no hook at this place; what it calls to time a fetch is used instead. A state that is taken later is of
the batch after it where batches are fetched ahead, and at the start of an epoch it is nobody's: a loader may draw its
order when its iterator is made, or with its first batch, and may tell until then that the last epoch has ended.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher

from lit_ft.core.passes.randomness import Randomness
from lit_ft.running.as_built import same


@dataclass
class Position:
    """A place between two batches.

    Args:
        loaders: States of the loaders that have one.
        fetch: Randomness before the next batch is fetched.
        iterate: Randomness before the iterator of a new epoch is made; None inside an epoch.
        ended: Whether the loaders tell the end of the epoch before: a new iterator begins the next one.
        closed: Whether no iterator of the next epoch was made; its randomness is then ``iterate`` alone.
        fetched: Whether the next batch was fetched already: the fetch may have drawn what training does not draw again.
    """

    loaders: list[dict[str, Any]]
    fetch: Randomness
    iterate: Randomness | None = None
    ended: bool = False
    closed: bool = False
    fetched: bool = True

    def plain(self) -> dict[str, Any]:
        """Its randomness as plain data; that of one process."""
        iterate = None if self.iterate is None else self.iterate.plain()
        flags = {"ended": self.ended, "closed": self.closed, "fetched": self.fetched}
        return {"fetch": self.fetch.plain(), "iterate": iterate, **flags}

    @classmethod
    def of(cls, plain: dict[str, Any], loaders: list[dict[str, Any]]) -> "Position":
        """The position that ``plain`` was made of."""
        iterate = None if plain["iterate"] is None else Randomness.of(plain["iterate"])
        return cls(loaders, Randomness.of(plain["fetch"]), iterate, plain["ended"], plain["closed"], plain["fetched"])


class Fetches:
    """Follows the fetches of a trainer, from ``on_train_start`` on.

    See also: :mod:`lit_ft.running.resume_point`, for the counters of the trainer.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Follows(pl.Callback):
        ...     fetches = Fetches()
        ...     def on_train_start(self, trainer, module):
        ...         self.fetches.follow(trainer)
        ...     def on_train_batch_start(self, trainer, module, batch, batch_idx):
        ...         print(self.fetches.before_this_batch(trainer).loaders)
        >>> _ = fit_foreign([Follows()], max_steps=2)
        [{'epoch': 0, 'position': 0, 'batches': 11}]
        [{'epoch': 0, 'position': 1, 'batches': 11}]
    """

    def __init__(self) -> None:
        self._noted: list[Position] = []
        self._end: list[dict[str, Any]] | None = None
        self._before_epoch: Randomness | None = None
        self._restore: Randomness | None = None

    def follow(self, trainer: pl.Trainer) -> None:
        """Note the position before each fetch from now on."""
        loop = trainer.fit_loop.epoch_loop
        vars(loop).pop("_on_before_fetch", None)
        lightnings: Callable[[], None] = loop._on_before_fetch

        def before_fetch() -> None:
            self._note(trainer)
            lightnings()

        loop._on_before_fetch = before_fetch  # type: ignore[method-assign]
        if trainer.fit_loop._data_fetcher is not None:
            trainer.fit_loop._data_fetcher._start_profiler = before_fetch

    def leave(self, trainer: pl.Trainer) -> None:
        """Leave the trainer as it was."""
        vars(trainer.fit_loop.epoch_loop).pop("_on_before_fetch", None)

    def _note(self, trainer: pl.Trainer) -> None:
        if self._restore is not None:
            self._restore.restore()
            self._restore = None
        now = Position(_states(trainer), Randomness())
        if self._before_epoch is not None:  # the first batch of an epoch
            now.iterate, self._before_epoch = self._before_epoch, None
            now.ended = self._end is not None and same(now.loaders, self._end)
            self._end = None
        self._noted = [*self._noted, now][-2:]

    def epoch_starts(self) -> None:
        """Note the randomness before the iterators of an epoch are made."""
        self._before_epoch = Randomness()

    def epoch_ends(self, trainer: pl.Trainer) -> None:
        """Note what loaders tell at the end of an epoch."""
        self._end = _states(trainer)

    def before_this_batch(self, trainer: pl.Trainer) -> Position:
        """The position before the batch that has begun was fetched."""
        fetcher = trainer.fit_loop._data_fetcher
        ahead = fetcher is not None and hasattr(fetcher, "batches") and fetcher.length is None  # a batch, or the end
        return self._before(trainer, 1 + ahead)

    def before_next_batch(self, trainer: pl.Trainer, epoch_is_over: bool) -> Position:
        """The position after the last batch that was trained on."""
        ahead = len(getattr(trainer.fit_loop._data_fetcher, "batches", ()))
        position = self._before(trainer, 0 if epoch_is_over else ahead)
        if epoch_is_over:
            position.iterate, position.ended, position.closed = position.fetch, True, True
        return position

    def _before(self, trainer: pl.Trainer, fetches: int) -> Position:
        if fetches == 0 or isinstance(trainer.fit_loop._data_fetcher, _DataLoaderIterDataFetcher):
            return Position(_states(trainer), Randomness(), fetched=False)
        return self._noted[-min(fetches, len(self._noted))]

    def go_to(self, trainer: pl.Trainer, position: Position) -> None:
        """Bring the loaders of a trainer to a position, and the random generators when the next batch is fetched."""
        loader, fetcher = trainer.fit_loop._combined_loader, trainer.fit_loop._data_fetcher
        if loader is None or fetcher is None:
            return
        with warnings.catch_warnings():
            if position.iterate is not None:  # no order is to continue
                warnings.filterwarnings("ignore", "the checkpoint was made in an epoch of")
            loader._load_state_dicts(position.loaders)
        for one in loader.flattened if position.ended else ():
            if hasattr(one, "state_dict"):
                next(iter(one), None)  # the end that it tells; a new iterator begins
        if position.iterate is not None:
            position.iterate.restore()
        self._restore = None if position.closed else position.fetch
        if position.loaders or position.iterate is not None:
            iter(fetcher)
        if position.closed:
            self._restore = Randomness()


def _states(trainer: pl.Trainer) -> list[dict[str, Any]]:
    loader = trainer.fit_loop._combined_loader
    return [] if loader is None else loader._state_dicts()
