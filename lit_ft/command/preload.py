"""Heavy imports, made with the garbage collector at rest."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports(for_good: bool = False) -> Iterator[None]:
    """Let the garbage collector rest while modules are imported.

    It would look through half a million new objects again and again, a sixth of the time that commands need to begin.

    Args:
        for_good: Whether all that is there afterwards stays until the process ends, so that it need not be counted.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if collects:
            gc.enable()
