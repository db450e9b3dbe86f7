"""Reads batches and outputs of any form: their parts, how many rows they have, their labels.

A batch may be a tensor, a mapping that need not be a dict, a tuple with or without names, a dataclass, a graph, or an
object of somebody's own. Nothing here changes it, and nothing is guessed: what is not understood is None, or refused.
"""

import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lit_ft.core.errors import ConfigError

LABELS = ("labels", "targets", "label", "target", "y")


def parts(value: Any) -> dict[Any, Any]:
    """What a value is made of, by name or number; empty for tensors and whatever has no parts.

    Example:
        >>> parts({"x": 1}), parts((1, 2))
        ({'x': 1}, {0: 1, 1: 2})
        >>> class Own:
        ...     def __init__(self):
        ...         self.x, self._cached = 1, 2
        >>> parts(Own())
        {'x': 1}
    """
    if isinstance(value, (Tensor, str, bytes, int, float, Enum, type, nn.Module)) or inspect.isroutine(value):
        return {}
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, (list, tuple)):
        return dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if callable(getattr(value, "keys", None)):  # a graph, a TensorDict
        with suppress(KeyError, TypeError):
            return {key: value[key] for key in value.keys()}  # noqa: SIM118
    slots = (name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ())))
    names = [name for name in dict.fromkeys([*slots, *getattr(value, "__dict__", {})]) if not name.startswith("_")]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _names(slots: Any) -> Sequence[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def tensors(value: Any, depth: int = 6) -> Iterator[Tensor]:
    """The tensors in a value, in order, not below ``depth`` parts in parts.

    Example:
        >>> [len(tensor) for tensor in tensors({"x": torch.zeros(3), "more": [torch.zeros(2), None]})]
        [3, 2]
    """
    if isinstance(value, Tensor):
        yield value
    elif depth:
        for part in parts(value).values():
            yield from tensors(part, depth - 1)


def named(batch: Any, name: str) -> Any:
    """A part of a batch by its name, or of its first part, as inputs stand before labels; None if there is none.

    Example:
        >>> named(({"input_ids": 3}, "labels"), "input_ids"), named({"input_ids": 3}, "mask")
        (3, None)
    """
    own = parts(batch)
    first = next(iter(own.values()), None)
    return own[name] if name in own else parts(first).get(name)


def rows_in(batch: Any) -> int | None:
    """The number of rows of a batch: what it says itself, else the length of its first tensor; None is unknown.

    Example:
        >>> rows_in((torch.zeros(3, 2), torch.zeros(3))), rows_in({"text": ["a", "b"]})
        (3, None)
    """
    for part in (batch, *list(parts(batch).values())[:1]):
        if (said := _said(part)) is not None:
            return said
    first = next(tensors(batch), None)
    return None if first is None else first.shape[0] if first.ndim else 1


def _said(value: Any) -> int | None:
    """The size that an object of graphs, of tensors or of somebody's own says that it has."""
    if isinstance(value, (Tensor, Mapping, list, tuple)) and not hasattr(value, "batch_size"):
        return None
    for name in ("num_graphs", "batch_size"):
        said = getattr(value, name, None)
        if isinstance(said, (tuple, list)) and said:  # of a TensorDict
            said = said[0]
        if isinstance(said, int) and not isinstance(said, bool):
            return said
    own = hasattr(type(value), "__len__") and not isinstance(value, (str, bytes)) and not hasattr(value, "keys")
    return len(value) if own else None


def labels_of(batch: Any) -> Tensor:
    """The labels in a batch, as they are: under a name such as ``labels``, or the second of several without names.

    Where that holds several, as a target with its weight does, they are the first.

    Raises:
        ConfigError: There are none.

    Example:
        >>> labels_of({"images": torch.zeros(2, 3), "labels": torch.tensor([1, 0])})
        tensor([1, 0])
        >>> labels_of((torch.zeros(2, 3), (torch.tensor([1, 0]), torch.ones(2))))
        tensor([1, 0])
    """
    found = _labels(batch)
    if found is None:
        names = ", ".join(map(str, parts(batch)))
        given = f"{type(batch).__name__}{names and f' of {names}'}"
        raise ConfigError("data", given, f"batches with labels: under a name ({', '.join(LABELS)}), or second of two")
    return found


def _labels(batch: Any) -> Tensor | None:
    own = parts(batch)
    folded = {str(name).lower(): name for name in reversed(own)}
    name = next((folded[name] for name in LABELS if name in folded), None)
    if name is None and isinstance(batch, (list, tuple)) and (len(batch) == 2 or not hasattr(batch, "_fields")):
        return _tensor(batch[1]) if len(batch) > 1 else None
    return _tensor(own.get(name))


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, (int, float)) for item in value):
        return torch.as_tensor(value)
    if isinstance(value, (list, tuple)):
        return _tensor(value[0]) if value else None
    if isinstance(value, Mapping):
        named = _labels(value)
        return named if named is not None else next(tensors(value), None) if len(value) == 1 else None
    return torch.as_tensor(value) if hasattr(value, "__array__") else None


def classes(labels: Tensor) -> Tensor:
    """Labels as class numbers of shape (rows,): whole numbers, yes or no, or one of several marked by 1.

    Args:
        labels: Of all rows, as :func:`labels_of` finds them.

    Raises:
        ConfigError: They are something else, as the targets of a regression are.

    Example:
        >>> classes(torch.tensor([[1.0], [0.0]])), classes(torch.tensor([[0, 0, 1], [0, 1, 0]]))
        (tensor([1, 0]), tensor([2, 1]))
        >>> classes(torch.tensor([0.25, 3.0]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: data: given 'labels of shape (2,) and torch.float32'; allowed: class numbers...
    """
    found = labels
    while found.ndim > 1 and found.shape[-1] == 1:
        found = found[..., 0]
    marks = bool(((found == 0) | (found == 1)).all())
    if found.ndim == 2 and marks and bool((found.sum(1) == 1).all()):
        return found.long().argmax(1)
    whole = not found.is_floating_point() and not found.is_complex()
    if found.ndim != 1 or not (marks or (whole and bool((found >= 0).all()))):
        given = f"labels of shape {tuple(labels.shape)} and {labels.dtype}"
        raise ConfigError("data", given, "class numbers, one a row: from 0, or 0.0 and 1.0, or one of several marked")
    return found.long()


def output_in(output: Any) -> Tensor | None:
    """The tensor in what a module gave: the first with rows and columns, of a distribution its mean; None is unknown.

    Example:
        >>> output_in({"loss": torch.tensor(0.5), "hidden": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
        >>> output_in(torch.distributions.Normal(torch.ones(2, 1), 1.0))
        tensor([[1.],
                [1.]])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Distribution) or hasattr(output, "rsample"):
        return _mean(output)
    found = [tensor for part in parts(output).values() if (tensor := output_in(part)) is not None]
    return next((tensor for tensor in found if tensor.ndim > 1), found[0] if found else None)


def _mean(distribution: Any) -> Tensor | None:
    """The mean; of classes, which have none, the logits."""
    try:
        mean = distribution.mean
        return distribution.logits if isinstance(mean, Tensor) and mean.isnan().all() else mean
    except (AttributeError, NotImplementedError):
        return getattr(distribution, "logits", None)


def vectors(output: Tensor, name: str, rows: int | None = None) -> Tensor:
    """One vector a row of what a submodule gave, the mean over its positions.

    Args:
        output: Shape (rows, ..., width), or (rows,).
        name: Name of the submodule, for the error.
        rows: How many rows there are; None: as many as are given.

    Raises:
        ConfigError: It gives nothing for each row.

    Example:
        >>> vectors(torch.tensor([[[1.0], [3.0]]]), "encoder")
        tensor([[2.]])
    """
    if output.ndim == 0 or rows not in (None, len(output)):
        wanted = "one that gives a vector a row" + ("" if rows is None else f", of {rows} with a label")
        raise ConfigError("module", f"{name}, which gives {tuple(output.shape)}", wanted)
    if output.ndim == 1:
        return output[:, None]
    return output.flatten(1, -2).mean(1) if output.ndim > 2 else output


def one_row(batch: Any, number: int, rows: int) -> Any:
    """One row of a batch of ``rows`` rows, as a batch of the same form.

    Tensors of that length are indexed along their first dimension, and so are lists without tensors in them.

    Raises:
        ConfigError: It is a graph or an object that is not made of rows.

    Example:
        >>> one_row({"images": torch.tensor([[0, 1], [2, 3]]), "names": ["a", "b"]}, 1, rows=2)
        {'images': tensor([[2, 3]]), 'names': ['b']}
    """
    if isinstance(batch, Tensor):
        return batch[number : number + 1] if batch.ndim and len(batch) == rows else batch
    own = parts(batch)
    if not own:
        return batch
    if isinstance(batch, (list, tuple)) and len(batch) == rows and next(tensors(batch), None) is None:
        return batch[number : number + 1]
    if isinstance(getattr(batch, "batch_size", None), torch.Size):  # a TensorDict is cut as a tensor is
        return batch[number : number + 1]
    taken = {name: one_row(part, number, rows) for name, part in own.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(*taken.values()) if hasattr(batch, "_fields") else type(batch)(taken.values())
    if isinstance(batch, MutableMapping):
        made = copy.copy(batch)
        made.update(taken)
        return made
    if _said(batch) is not None or hasattr(batch, "keys"):
        raise ConfigError("data", type(batch).__name__, "batches that can be cut into rows; graphs cannot")
    made = copy.copy(batch)
    for name, part in taken.items():
        object.__setattr__(made, name, part)
    return made
