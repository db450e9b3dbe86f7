"""How far a study is: a live table on a terminal, one line a finished run elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_ft.studies.runner import DONE, FAILED, REUSED, RUNNING, WAITING, Status

if TYPE_CHECKING:
    from rich.table import Table

REDRAWN = 0.25  # seconds; drawing is not free beside short runs


@contextmanager
def progress() -> Iterator[Callable[[Sequence[Status]], None]]:
    """A function that shows the statuses it is given."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        yield _Lines()
        return
    drawn = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def update(statuses: Sequence[Status]) -> None:
            nonlocal drawn
            if time.monotonic() - drawn > REDRAWN:
                drawn = time.monotonic()
                live.update(progress_table(statuses), refresh=True)

        yield update


def time_left(statuses: Sequence[Status]) -> float | None:
    """Seconds that the rest will take, by the mean of the runs that were made; None before the first."""
    done = [status.seconds for status in statuses if status.state == DONE]
    if not done:
        return None
    mean = sum(done) / len(done)
    running = [status.seconds for status in statuses if status.state == RUNNING]
    waiting = sum(status.state == WAITING for status in statuses)
    work = waiting * mean + sum(max(0.0, mean - spent) for spent in running)
    return work / max(1, len(running))


def progress_table(statuses: Sequence[Status]) -> "Table":
    """Where every run stands, and how long the rest will take."""
    from rich.table import Table

    ended = sum(status.state not in (WAITING, RUNNING) for status in statuses)
    left = time_left(statuses)
    rest = f", about {left:.0f} s left" if left is not None and ended < len(statuses) else ""
    grid = Table(title=f"{ended} of {len(statuses)} runs{rest}", box=None)
    for column in ("run", "state", "seconds"):
        grid.add_column(column, justify="right" if column == "seconds" else "left")
    for status in statuses:
        grid.add_row(status.planned.label, status.state, f"{status.seconds:.1f}" if status.seconds else "")
    return grid


class _Lines:
    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, statuses: Sequence[Status]) -> None:
        for status in statuses:
            if status.state in (DONE, REUSED, FAILED) and status.planned.label not in self.said:
                self.said.add(status.planned.label)
                done = f"[{len(self.said)}/{len(statuses)}] {status.planned.label}: {status.state}"
                print(f"{done}, {status.seconds:.1f} s", flush=True)
