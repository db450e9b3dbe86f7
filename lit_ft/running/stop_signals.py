"""Ctrl-C and SIGTERM as a wish that is granted between two batches."""

import os
import signal
from contextlib import suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143}  # exit status, as shells have it
AS_SIGTERM = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()  # a terminal that is closed


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, granted once everything was saved.

    Example:
        >>> isinstance(ended_by(signal.SIGINT), Interrupted)
        True
    """


class StopSignals:
    """Notes the first SIGINT or SIGTERM; a second SIGINT is obeyed at once. SIGHUP counts as SIGTERM.

    A signal that the process ignores, as SIGINT in the background of a shell, stays ignored.

    See also: :func:`ended_by`, which says what ends a process that was asked to stop.

    Example:
        >>> signals = StopSignals()
        >>> signals.listen()
        >>> signal.raise_signal(signal.SIGTERM)
        >>> signals.restore()
        >>> signals.received.name
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over both signals; only the main thread can."""
        self.received = None
        if current_thread() is main_thread():
            for number in (*ENDED, *AS_SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Give both signals back to those who had them before."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def note(self, number: signal.Signals) -> None:
        """Note a signal that somebody else received."""
        self.received = self.received or number

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            told = f"{signal.Signals(number).name}: saving at the end of this accumulation window{again}\n"
            with suppress(OSError):  # the terminal is gone
                os.write(2, told.encode())  # print may be what it interrupted
        self.note(signal.SIGTERM if number in AS_SIGTERM else signal.Signals(number))

    def __getstate__(self) -> dict[str, Any]:
        """Neither a copy nor another process has the handlers of this one."""
        return {"received": self.received, "_handlers": {}}


def ended_by(number: signal.Signals) -> BaseException:
    """The exception that ends a run on a signal: what Lightning raises for it, with the exit status of a shell.

    Example:
        >>> ended_by(signal.SIGTERM).code, ended_by(signal.SIGINT)
        (143, Interrupted())
    """
    return Interrupted() if number == signal.SIGINT else SIGTERMException(ENDED[number])


def as_signal(exit: SystemExit) -> BaseException:
    """What Lightning made an exit of: it exits with 1 on Ctrl-C, and with 0 on SIGTERM.

    Example:
        >>> as_signal(SIGTERMException()).code, as_signal(SystemExit(2)).code
        (143, 2)
    """
    if isinstance(exit.__context__, KeyboardInterrupt):
        return KeyboardInterrupt()
    return ended_by(signal.SIGTERM) if isinstance(exit, SIGTERMException) else exit
