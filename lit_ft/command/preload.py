"""Heavy imports, made with the garbage collector at rest, and Lightning made quiet."""

import gc
import logging
import warnings
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


def quiet() -> None:
    """Leave out what Lightning says to everybody at every start; its warnings stay."""
    import lightning.pytorch  # noqa: F401  (its import sets the levels)

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        ".*many workers.*",
        ".*callbacks used to create the checkpoint.*",
        ".*tensorboardX.*",
    ):
        warnings.filterwarnings("ignore", message=message)
