"""What becomes of every tensor, decided before a weight is read."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.weights import wide
from lit_ft.merging.arithmetic import linear
from lit_ft.merging.compare import class_names, compare_settings, row_order, same_tokenizer, tokens
from lit_ft.merging.expert import Expert
from lit_ft.merging.merge import Merge
from lit_ft.merging.places import TensorPlace, places

_STATISTICS = ("running_mean", "running_var")
MERGED, MEAN, COPIED = "merged", "mean", "copied"


@dataclass
class View:
    """An expert under the names and the order of rows of the result.

    Args:
        expert: The network.
        names: Its own name of each tensor of the result.
        rows: Which of its rows stands in each row of the result, where that differs.
    """

    expert: Expert
    names: dict[str, str]
    rows: dict[str, list[int]] = field(default_factory=dict)

    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """A tensor of the result, in float32 or wider; integers as they are."""
        tensor = self.expert.read(self.names[name]).to(device)
        if name in self.rows:
            tensor = tensor[torch.tensor(self.rows[name], device=tensor.device)]
        if not tensor.is_floating_point():
            return tensor
        tensor = wide(tensor)
        if tensor.numel() and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
            raise ConfigError("inputs", f"{self.expert.label} with {self.names[name]}", "finite numbers")
        return tensor


@dataclass
class Plan:
    """What becomes of every tensor.

    Args:
        merge: The merge.
        inputs: The networks.
        base: What their changes are of.
        rules: By name: ``merged``, ``mean`` of the inputs, or ``copied`` with the number of the input.
        dtypes: Type of each tensor of the result.
        notes: What a person should know, in sentences.
        head: The number of the input whose head and settings are kept.
        untied: Whether tensors that a configuration ties are apart in the result.
        device: Where it is computed; None is where the tensors are.
    """

    merge: Merge
    inputs: list[View]
    base: View | None
    rules: dict[str, tuple[str, int]]
    dtypes: dict[str, torch.dtype]
    notes: list[str]
    head: int = 0
    untied: bool = False
    device: torch.device | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the result."""
        views = [self.inputs[of] for _, of in self.rules.values()]
        return {name: view.expert.shapes[view.names[name]] for name, view in zip(self.rules, views, strict=True)}

    def read(self, name: str, seen: Callable[[str, Tensor | None, list[Tensor], Tensor], None] | None = None) -> Tensor:
        """One tensor of the result, in float32 or wider.

        Args:
            name: Its name.
            seen: Called with the name, the tensor of the base, those of the inputs, and the result.
        """
        rule, of = self.rules[name]
        if rule == COPIED:
            return self.inputs[of].read(name, self.device)
        tensors = [view.read(name, self.device) for view in self.inputs]
        base = self.base.read(name, self.device) if self.base is not None and name in self.base.names else None
        if rule == MEAN:
            result = linear(tensors, [1 / len(tensors)] * len(tensors))
        elif base is None and self.merge.needs_base:
            result = self.merge.without_base(self.place(name), tensors)
        else:
            result = self.merge.combine(self.place(name), base, tensors)
        if seen is not None:
            seen(name, base, tensors, result)
        return result

    @cached_property
    def _places(self) -> dict[str, TensorPlace]:
        return places(self.rules)

    def place(self, name: str) -> TensorPlace:
        """Where a tensor stands."""
        return self._places[name]


def plan(
    merge: Merge,
    inputs: Sequence[Expert],
    base: Expert | None = None,
    head: int | None = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """Compare the inputs and decide what becomes of every tensor; only names, shapes and settings are read.

    - A tensor that all inputs have is merged. One that the base lacks, such as a head, has no change, and is averaged
      with the inputs' weights; where it differs in shape or in its classes, ``head`` says whose is kept.
    - Integers are copied from the first input, running statistics of batch norm are averaged.
    - Rows of embeddings and heads are put into the order of the first input's tokens and classes.
    - What only the base has is left out. What only some inputs have, a head apart, is refused.

    Args:
        merge: The merge.
        inputs: The networks, in the order of its weights.
        base: What their changes are of.
        head: Number of the input whose head and settings are kept.
        dtype: Type of the result; None is that of the inputs, the widest of them.

    Raises:
        ConfigError: They cannot be merged; what differs is named.

    Example:
        >>> from lit_ft.merging.merge import LinearMerge
        >>> made = plan(LinearMerge(), [Expert({"w": torch.tensor([v])}, "") for v in (1.0, 3.0)])
        >>> made.read("w")
        tensor([2.])
    """
    if not inputs:
        raise ConfigError("inputs", [], "at least one network")
    if merge.needs_base and base is None:
        raise ConfigError("base", None, f"a network: {type(merge).__name__} combines changes to one")
    notes: list[str] = []
    compare_settings(inputs[0], [*inputs[1:], *([base] if base else [])])
    views = [View(inputs[0], {name: name for name in inputs[0].shapes})]
    for other in inputs[1:]:
        views.append(_renamed(inputs[0], other))
    untied = _untie(views, notes)
    under = None if base is None else _renamed(inputs[0], base, is_base=True)
    if under is not None:
        _tie_of(under, views[0])
    rules = _rules(views, under, head, notes)
    _align(views, under, rules, head, notes)
    made = Plan(merge, views, under, rules, _types(views, rules, dtype, notes), notes, head or 0, untied)
    merged = [name for name, (rule, _) in rules.items() if rule == MERGED]
    merge.check({name: made.place(name) for name in merged}, len(inputs), made.shapes)
    _say_weights(merge, len(inputs), notes)
    return made


def _renamed(first: Expert, other: Expert, is_base: bool = False) -> View:
    """The names of a network whose body may stand under another prefix (``bert.``)."""
    wanted, own = first.shapes, other.shapes
    prefixes = Counter(name.partition(".")[0] + "." for name in (*wanted, *own))
    ways: list[dict[str, str]] = [{name: name for name in own}]
    ways += [{prefix + name: name for name in own} for prefix in prefixes]
    ways += [{name.removeprefix(prefix): name for name in own} for prefix in prefixes]
    best = max(ways, key=lambda way: sum(name in wanted for name in way))
    if not any(name in wanted for name in best):
        raise ConfigError(
            "base" if is_base else "inputs",
            f"{other.label} with {next(iter(own), 'nothing')}",
            f"the tensors of {first.label}, such as {next(iter(wanted), 'none')}",
        )
    return View(other, best)


def _ties(view: View) -> dict[str, str]:
    """Names that the architecture ties to others, where the configuration says so."""
    config = view.expert.config
    if config.get("tie_word_embeddings", True) is False or not config.get("architectures"):
        return {}
    import transformers

    found = getattr(getattr(transformers, config["architectures"][0], None), "_tied_weights_keys", None)
    return dict(found) if isinstance(found, dict) else {}


def _untie(views: Sequence[View], notes: list[str]) -> bool:
    """Where one input has tensors apart that others tie, all have them apart."""
    apart = {name for view in views for name in view.names}
    untied = False
    for view in views:
        for name, source in _ties(view).items() if apart - view.names.keys() else ():
            if name in apart and name not in view.names and source in view.names:
                view.names[name] = view.names[source]
                notes.append(f"{view.expert.label} ties {name} to {source}; it is apart in the result")
                untied = True
    return untied


def _tie_of(base: View, first: View) -> None:
    for name, source in _ties(base).items() if first.names.keys() - base.names.keys() else ():
        if name in first.names and name not in base.names and source in base.names:
            base.names[name] = base.names[source]


def _shape(view: View, name: str) -> tuple[int, ...]:
    return view.expert.shapes[view.names[name]]


def _rules(views: Sequence[View], base: View | None, head: int | None, notes: list[str]) -> dict[str, tuple[str, int]]:
    """What becomes of each name that an input has."""
    names = list(dict.fromkeys(name for view in views for name in view.names))
    body = set(base.names) if base is not None else _common_prefix(views[0])
    rules: dict[str, tuple[str, int]] = {}
    means = []
    for name in names:
        having = [number for number, view in enumerate(views) if name in view.names]
        shapes = {_shape(views[number], name) for number in having}
        is_head = name not in body
        if head is not None and is_head:
            if head in having:
                rules[name] = COPIED, head
            continue
        if len(having) < len(views):
            lacking = next(view.expert.label for view in views if name not in view.names)
            raise ConfigError(
                "inputs", f"{lacking} without {name}", "the same tensors in all; --head RUN says whose head is kept"
            )
        if base is not None and name in base.names and _shape(base, name) not in shapes:
            given = f"{base.expert.label} with {name} of shape {_shape(base, name)}"
            raise ConfigError("base", given, f"shape {_shape(views[0], name)}")
        if len(shapes) > 1:
            odd = next(number for number in having if _shape(views[number], name) != _shape(views[0], name))
            given = f"{views[odd].expert.label} with {name} of shape {_shape(views[odd], name)}"
            way = "; --head RUN says whose head is kept" if is_head else ""
            raise ConfigError("inputs", given, f"shape {_shape(views[0], name)}, as in {views[0].expert.label}{way}")
        kind = views[0].expert.dtypes[views[0].names[name]]
        if not kind.is_floating_point:
            rules[name] = COPIED, 0
        elif name.endswith(_STATISTICS):
            rules[name] = MEAN, 0
        else:
            rules[name] = MERGED, 0
            if base is not None and name not in base.names:
                means.append(name)
    if means:
        notes.append(f"the base has no {_some(means)}: averaged over the inputs")
    kept = [name for name, (rule, _) in rules.items() if rule == COPIED and name not in body]
    if head is not None and kept:
        notes.append(f"{_some(kept)}: of {views[head].expert.label} alone")
    if base is not None and (more := [name for name in base.names if name not in rules and name not in names]):
        notes.append(f"only the base has {_some(more)}: left out")
    return rules


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _common_prefix(view: View) -> set[str]:
    """The body of a network without a base: what stands under the prefix that most tensors share."""
    prefixes = Counter(name.partition(".")[0] for name in view.names)
    common = prefixes.most_common(1)[0][0]
    return {name for name in view.names if name.partition(".")[0] == common} if len(prefixes) > 1 else set(view.names)


def _align(
    views: Sequence[View], base: View | None, rules: dict[str, tuple[str, int]], head: int | None, notes: list[str]
) -> None:
    """Put rows that stand for tokens and classes into the order of the first input."""
    first = views[0]
    for view in [*views[1:], *([base] if base is not None else [])]:
        if same_tokenizer(first.expert.folder, view.expert.folder):
            continue  # most are, and reading them costs more than a small merge
        own, found = tokens(first.expert.folder), tokens(view.expert.folder)
        if own is None or found is None:
            continue
        size = len(own)
        order = row_order("token", own, found, (first.expert.label, view.expert.label))
        if order is not None:
            rows = [name for name in rules if name in view.names and _shape(view, name)[:1] == _vocabulary(view, size)]
            for name in rows:
                view.rows[name] = order + list(range(len(order), _shape(view, name)[0]))
            notes.append(
                f"{view.expert.label} numbers its tokens otherwise: {', '.join(rows)} follow {first.expert.label}"
            )
    if head is not None:
        return
    classes = class_names(first.expert)
    for view in views[1:]:
        found_names = class_names(view.expert)
        if classes is None or found_names is None or classes == found_names:
            continue
        try:
            order = row_order(
                "class", _numbers(classes), _numbers(found_names), (first.expert.label, view.expert.label)
            )
        except ConfigError as error:
            raise ConfigError("inputs", error.given, f"{error.allowed}; --head RUN says whose head is kept") from error
        body = set(base.names) if base is not None else _common_prefix(first)
        heads = [name for name in rules if name not in body and _shape(view, name)[:1] == (len(classes),)]
        view.rows |= {name: list(order or ()) for name in heads}
        notes.append(
            f"{view.expert.label} orders its classes otherwise: {', '.join(heads)} follow {first.expert.label}"
        )


def _vocabulary(view: View, size: int) -> tuple[int]:
    return (int(view.expert.config.get("vocab_size", size)),)


def _numbers(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _types(
    views: Sequence[View], rules: dict[str, tuple[str, int]], dtype: torch.dtype | None, notes: list[str]
) -> dict[str, torch.dtype]:
    kinds: dict[str, Any] = {}
    for name, (rule, of) in rules.items():
        having = [views[of]] if rule == COPIED else views
        found = [view.expert.dtypes[view.names[name]] for view in having]
        kinds[name] = found[0]
        for other in found[1:]:
            kinds[name] = torch.promote_types(kinds[name], other)
        if dtype is not None and kinds[name].is_floating_point:
            kinds[name] = dtype
    stored = {
        str(view.expert.dtypes[own]) for view in views for own in view.names.values() if own in view.expert.dtypes
    }
    floating = sorted(kind.removeprefix("torch.") for kind in stored if "float" in kind)
    if len(floating) > 1 and dtype is None:
        notes.append(f"the inputs hold {' and '.join(floating)}: each tensor is written in the wider type of the two")
    return kinds


def _say_weights(merge: Merge, number: int, notes: list[str]) -> None:
    weights = merge.weights(number)
    if not merge.needs_base and merge.weight is not None and abs(sum(weights) - 1) > 1e-6:
        notes.append(f"the weights sum to {sum(weights):g}, not to one: the network is scaled by it")


def input_number(argument: str, given: str, inputs: Sequence[Expert]) -> int:
    """The number of an input that is named by its number or what it is called."""
    labels = [one.label for one in inputs]
    if given.isdigit() and int(given) < len(labels):
        return int(given)
    if labels.count(given) != 1:
        raise ConfigError(argument, given, f"one of {', '.join(labels)}, or its number from 0{nearest(given, labels)}")
    return labels.index(given)
