"""The state of a module that its own step may write, kept to be put back, without copying a large frozen base."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.copy_on_write import CopyOnWrite
from lit_ft.core.passes.keeping import ATOMS, Put, Standing, attributes, keep, not_walked, place_of, put_attributes

LEAST = 1 << 20  # bytes that may always be copied


class KeptTensor:
    """A tensor as it is now: its storage, the number of writes so far, and a copy where its contents are kept.

    Args:
        tensor: The tensor.
        trained: Whether it is a weight that a gradient goes to.
        always: Whether a run writes it as a rule, as buffers.
    """

    __slots__ = ("alias", "always", "copy", "place", "tensor", "trained", "version")

    def __init__(self, tensor: Tensor, trained: bool = False, always: bool = False) -> None:
        self.tensor, self.trained, self.always = tensor, trained, always
        self.place = place = _address(tensor)
        self.alias = None if place is None else tensor.data
        self.version = None if tensor.is_inference() else tensor._version
        self.copy: Tensor | None = None

    def keep(self) -> None:
        """Copy the contents."""
        if self.copy is None and _writable(self.tensor):
            self.copy = self.tensor.detach().clone()

    @property
    def displaced(self) -> bool:
        """Whether the tensor has another storage than it had: ``tensor.data = ...``."""
        return self.place is not None and _address(self.tensor) != self.place

    @property
    def overwritten(self) -> bool:
        """Whether it was written in place since, as far as its version says; writes through ``.data`` are not seen."""
        return self.version is not None and self.tensor._version != self.version and not self.displaced

    def put_back(self) -> None:
        """Restore storage and contents; versions do not rise, as a graph may have saved the tensor."""
        if self.alias is not None and self.displaced:
            self.tensor.data = self.alias
        if self.copy is not None:
            if self.tensor.shape != self.copy.shape:
                self.tensor.data = self.copy.clone()
            self.tensor.data.copy_(self.copy)


class State:
    """A snapshot of everything that a step of a module may write, which ``restore`` puts back.

    Kept are, of the module and of all that it holds: attributes; lists, dictionaries, sets, deques, arrays; objects
    with attributes; random generators; buffers; tensors; networks without gradient. Of the trainer: the rates of its
    optimizers, its schedulers, and whether it is to stop. The objects are put back, and their contents, as other code
    may hold them too.

    A large frozen base is not copied. Contents are copied of buffers, of what is ``written``, and of other tensors in
    ascending order of their size, as long as they are together no larger than the trained weights. Inside of
    ``watching`` the others are copied just before something writes them.

    Args:
        module: The module, unwrapped.
        trainer: Its trainer; None outside of training.
        statistics: Whether statistics of batch norm are kept, which a training step writes and does not read.
        written: Tensors that steps are known to write; also trained weights, which are else not copied.
        like: An earlier snapshot; of tensors that nothing has written since, its copies are taken.

    Example:
        >>> class Counter(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.count, self.seen = 0, []
        >>> counter = Counter()
        >>> state = State(counter)
        >>> counter.count += 1
        >>> counter.seen.append(2)
        >>> state.restore()
        >>> counter.count, counter.seen
        (0, [])
    """

    def __init__(
        self,
        module: nn.Module,
        trainer: Any = None,
        statistics: bool = True,
        written: Sequence[Tensor] = (),
        like: "State | None" = None,
    ) -> None:
        self.module = module
        self._contents: list[tuple[Put, Any, Any]] = []
        self._places: list[tuple[Any, Standing]] = []
        self.tensors: dict[int, KeptTensor] = {}
        self._seen: dict[int, Any] = {}
        self._statistics = statistics
        self._apart = not_walked()
        self._walk([module, *self._of_trainer(trainer)])
        self._seen = {}
        self._copy({id(tensor) for tensor in written}, like)

    def restore(self, trained: bool = True, check: bool = True) -> None:
        """Put everything back.

        Args:
            trained: Also weights that a gradient goes to.
            check: Refuse objects that moved and cannot be put back.
        """
        for put, owner, content in self._contents:
            put(owner, content)
        with torch.no_grad():
            for kept in self.tensors.values():
                if trained or not kept.trained:
                    kept.put_back()
        if check and (moved := next((value for value, place in self._places if place.moved()), None)) is not None:
            refuse_moved(moved, self.module)

    @contextmanager
    def watching(self, trained: bool = True) -> Iterator[None]:
        """Run a step, and copy what it writes just before it does; compiled code cannot be watched.

        Args:
            trained: Also weights that a gradient goes to.
        """
        rest: dict[int, list[KeptTensor]] = {}
        for kept in self.tensors.values():
            if kept.copy is None and kept.alias is not None and (trained or not kept.trained):
                rest.setdefault(kept.alias.untyped_storage().data_ptr(), []).append(kept)
        if not rest or _compiled(self.module):
            yield
            return
        with CopyOnWrite({place: [kept.keep for kept in many] for place, many in rest.items()}):
            yield

    def written(self) -> tuple[list[Tensor], list[Tensor]]:
        """After a step: the tensors that it wrote beside those that are always kept, and which of them are lost."""
        found, lost = [], []
        for kept in self.tensors.values():
            if kept.copy is not None:
                found += [] if kept.always else [kept.tensor]
            elif kept.displaced:
                kept.copy = kept.alias  # nothing else has that storage now
                found.append(kept.tensor)
            elif kept.overwritten:
                found.append(kept.tensor)
                lost.append(kept.tensor)
        return found, lost

    def put_weights(self, moved: Mapping[Tensor, Tensor]) -> None:
        """Put back the trained weights that steps write, each moved as given; others are as the caller wants them."""
        for kept in self.tensors.values():
            if kept.trained and kept.copy is not None:
                step = moved.get(kept.tensor)
                kept.tensor.data.copy_(kept.copy if step is None else kept.copy + step)

    def _of_trainer(self, trainer: Any) -> Iterator[Any]:
        if trainer is None or getattr(trainer, "strategy", None) is None:
            return
        for optimizer in trainer.strategy.optimizers:
            self._seen[id(optimizer)] = optimizer  # a step may set its rates, and takes no step with it
            for group in optimizer.param_groups:
                own = {name: value for name, value in group.items() if name != "params"}
                self._contents.append((dict.update, group, own))
                yield from own.values()
        yield from (config.scheduler for config in trainer.strategy.lr_scheduler_configs)
        self._contents.append((_put_stop, trainer, trainer.should_stop))

    def _walk(self, stack: list[Any]) -> None:
        seen, contents = self._seen, self._contents
        while stack:
            value = stack.pop()
            if type(value) in ATOMS or id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                self._add(value)
            elif isinstance(value, nn.Module):
                stack += self._of_module(value)
            elif (place := place_of(value)) is not None:
                self._places.append((value, place))
            elif not isinstance(value, self._apart) and (kept := keep(value)) is not None:
                if kept.put is not None:
                    contents.append((kept.put, value, kept.content))
                inside = kept.inside
                if not ATOMS.issuperset(map(type, inside)):
                    stack += inside

    def _of_module(self, module: nn.Module) -> Iterable[Any]:
        children = [child for child in module._modules.values() if child is not None]
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            return children  # its first pass makes its weights, and that is not undone
        own = attributes(vars(module))
        self._contents.append((put_attributes, vars(module), own))
        for name, written in (("_parameters", False), ("_buffers", True)):
            entries: Any = getattr(module, name)
            if isinstance(entries, dict) and entries:
                self._contents.append((put_attributes, entries, dict(entries)))
            if not written or self._statistics or not isinstance(module, _NormBase):
                for value in entries.values():
                    if value is not None and id(value) not in self._seen:
                        self._seen[id(value)] = value
                        self._add(value, trained=not written and value.requires_grad, always=written)
        values = [value for value in own.values() if type(value) not in ATOMS]
        if isinstance(module, Metric):
            for value in values:
                if isinstance(value, Tensor) and id(value) not in self._seen:
                    self._seen[id(value)] = value
                    self._add(value, always=True)
        return children + values

    def _add(self, tensor: Tensor, trained: bool = False, always: bool = False) -> None:
        if not is_lazy(tensor):
            self.tensors[id(tensor)] = KeptTensor(tensor, trained, always)

    def _copy(self, written: set[int], like: "State | None") -> None:
        left = max(LEAST, sum(kept.tensor.nbytes for kept in self.tensors.values() if kept.trained))
        small = []
        for key, kept in self.tensors.items():
            if kept.always or key in written:
                kept.keep()
            elif not kept.trained:
                small.append(kept)
        for kept in sorted(small, key=lambda kept: kept.tensor.nbytes):
            left -= kept.tensor.nbytes
            if left < 0:
                break
            before = None if like is None else like.tensors.get(id(kept.tensor))
            if before is not None and not before.displaced and not before.overwritten:
                kept.copy = before.copy
            kept.keep()


def refuse_moved(value: Any, module: nn.Module) -> None:
    """Refuse an object that a pass moved on and that cannot be put back, by the name of its attribute."""
    allowed = "numbers, tensors, containers and random generators, which can be put back for a second pass"
    raise ConfigError(name_of(value, module), f"a {type(value).__name__} that each step moves on", allowed)


def name_of(value: Any, module: nn.Module) -> str:
    """The name of the attribute of a module, or of one of its children, that holds an object.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1))
        >>> network[0].lines = [iter("ab")]
        >>> name_of(network[0].lines[0], network)
        'Sequential.0.lines'
    """
    for path, child in module.named_modules():
        for name, held in attributes(vars(child)).items():
            stack, seen = [held], set()
            while stack:
                one = stack.pop()
                if one is value:
                    return ".".join(part for part in (type(module).__name__, path, name) if part)
                if type(one) not in ATOMS and id(one) not in seen and not isinstance(one, (nn.Module, Tensor)):
                    seen.add(id(one))
                    kept = None if isinstance(one, not_walked()) or place_of(one) else keep(one)
                    stack += [] if kept is None else kept.inside
    return type(module).__name__


def _put_stop(trainer: Any, stop: bool) -> None:
    trainer.should_stop = stop


def _address(tensor: Tensor) -> int | None:
    """The address of a tensor's contents; None where it has none of its own, as sparse and wrapped tensors."""
    if tensor.layout is not torch.strided:
        return None
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return None


def _writable(tensor: Tensor) -> bool:
    """Whether a tensor may have been changed in place; expanded, lazy and inference tensors cannot be."""
    if is_lazy(tensor) or tensor.is_inference():
        return False
    if tensor.layout != torch.strided or tensor.is_contiguous():
        return True
    return all(n == 1 or step > 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _compiled(module: nn.Module) -> bool:
    return any(hasattr(child, "_orig_mod") or child._compiled_call_impl is not None for child in module.modules())
