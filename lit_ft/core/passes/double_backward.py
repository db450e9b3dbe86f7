"""A switch that tells losses whether their gradient will be differentiated again.

A loss that computes its gradient in the forward pass saves memory, but its double backward is wrong: autograd treats
that gradient as a constant. Such a loss is ``once_differentiable``, so that double backward is an error, and calls
``double_backward_wanted()`` to decide whether to use its plain form.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_wanted: ContextVar[bool] = ContextVar("double_backward_wanted", default=False)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Inside this context, losses use the form that can be differentiated twice.

    Example:
        >>> with differentiable_twice():
        ...     double_backward_wanted()
        True
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def double_backward_wanted() -> bool:
    """Whether the caller will differentiate the gradient of this loss.

    See also: :func:`differentiable_twice`.

    Example:
        >>> double_backward_wanted()
        False
        >>> with differentiable_twice():
        ...     double_backward_wanted()
        True
    """
    return _wanted.get()
