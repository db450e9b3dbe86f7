"""Whether the loss that is computed now will be differentiated twice.

A loss that forms its gradient in the forward pass saves memory, and is wrong under double backward: autograd sees a
constant. Such a loss is ``once_differentiable``, so that the mistake is an error, and asks ``double_backward_wanted()``
to switch to its plain form.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_wanted: ContextVar[bool] = ContextVar("double_backward_wanted", default=False)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Inside, losses take the form that can be differentiated twice.

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
