"""A launch whose run has ended when it is made: in this process, or by what a test says of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class Ended:
    def poll(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> None:
        return None

    def kill(self, number: int) -> None:
        return None


def launcher(kind: type[Ended]) -> Callable[[str], AbstractContextManager[Any]]:
    @contextmanager
    def launching(name: str) -> Iterator[Any]:
        yield kind

    return launching
