"""Noticing which tensors a piece of code writes, just before it does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CopyOnWrite(TorchDispatchMode):
    """Calls back before an operation first writes into certain storages, by whatever alias (``.data``, views, lists).

    Operations are dispatched one by one, which costs some microseconds each; their results are the same, bit by bit.

    Args:
        on_write: What is called, by the address of the storage.

    Example:
        >>> weight = torch.zeros(2)
        >>> with CopyOnWrite({weight.untyped_storage().data_ptr(): [lambda: print("before", weight)]}):
        ...     _ = weight.data.add_(1)
        before tensor([0., 0.])
    """

    def __init__(self, on_write: Mapping[int, Sequence[Callable[[], Any]]]) -> None:
        super().__init__()
        self._on_write = dict(on_write)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at what the operation writes, and run it."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in _written(func, args, kwargs):
                try:
                    address = tensor.untyped_storage().data_ptr()
                except (RuntimeError, NotImplementedError):  # sparse and wrapped tensors
                    continue
                for call in self._on_write.pop(address, ()):
                    call()
        return func(*args, **kwargs)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from (one for one in (value if isinstance(value, (list, tuple)) else [value]) if one is not None)
