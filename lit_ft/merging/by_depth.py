"""Merges in which what is taken of an input depends on the depth."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import ClosedUnitInterval, NonNegativeInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.merging import arithmetic
from lit_ft.merging.merge import Merge, TaskArithmetic
from lit_ft.merging.places import TensorPlace


class LayerSchedule(TaskArithmetic):
    r"""Changes scaled linearly with depth: :math:`\lambda(l) = \alpha + \beta \frac{l}{L-1}` in block l of L.

    Early blocks are kept near the base, which keeps what it knows, late ones keep what was learned. With alpha 1 and
    beta 0 the result is the input bit by bit, with 0 and 0 the base.

    Args:
        alpha: Scale in the first block; the paper tries 0, 0.1 ... 1.
        beta: What is added up to the last block; None is ``1 - alpha``, the paper's choice for one input.
        outside: Scale of what stands outside of blocks, by patterns of names (``{"*embed*": 0.2, "head.*": 1}``). What
            no pattern matches has the scale ``alpha``, as in the reference, also heads and final norms.
        weight: One factor for each input; the default is 1.

    Source: K. Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging", 2024,
    arXiv 2410.17146. Deviation: blocks are found by their numbers instead of by substrings of names, in each stack by
    itself; a single block counts as the last.

    Example:
        >>> merge, place = LayerSchedule(alpha=0.5), TensorPlace("h.1.w", "h", block=1, blocks=3)
        >>> merge.combine(place, torch.tensor([0.0]), [torch.tensor([4.0])])  # 0.5 + 0.5 * 1 / 2
        tensor([3.])
    """

    def __init__(
        self,
        alpha: float = 0.0,
        beta: float | None = None,
        outside: dict[str, float] | None = None,
        weight: list[float] | None = None,
    ) -> None:
        super().__init__(weight)
        self.alpha, self.beta, self.outside = alpha, 1 - alpha if beta is None else beta, outside or {}

    @override
    def check(
        self, places: Mapping[str, TensorPlace], number: int, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        super().check(places, number, shapes)
        if not any(place.block is not None for place in places.values()):
            raise ConfigError("inputs", "tensors without numbered blocks", "networks of at least two blocks")
        _match_all("outside", self.outside, places)

    @override
    def scales(self, place: TensorPlace, number: int) -> list[float]:
        if place.depth is None:
            scale = _by_pattern(self.outside, place.name, self.alpha)
        else:
            scale = self.alpha + self.beta * place.depth
        return [scale * weight for weight in self.weights(number)]


class SLERP(Merge):
    """The point on the arc between two networks, tensor by tensor.

    Args:
        t: 0 is the first input, 1 the second, bit by bit. A list is stretched over the depth: ``[0, 1]`` goes from the
            first input in the first block to the second one in the last.
        outside: ``t`` of what stands outside of blocks, where ``t`` is a list; the default is the mean of the list.

    Source: K. Shoemake, "Animating rotation with quaternion curves", 1985; of weights in merge tools since 2023.

    Example:
        >>> SLERP(0.5).combine(TensorPlace("w"), None, [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        tensor([0.7071, 0.7071])
    """

    inputs = 2

    def __init__(
        self,
        t: ClosedUnitInterval | list[ClosedUnitInterval] = 0.5,
        outside: ClosedUnitInterval | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        self.t = list(t) if isinstance(t, (list, tuple)) else [t]
        if not self.t:
            raise ConfigError("t", t, "at least one number")
        self.outside = sum(self.t) / len(self.t) if outside is None else outside

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        return arithmetic.slerp(inputs[0], inputs[1], self.at(place))

    def at(self, place: TensorPlace) -> float:
        """The number at a place: between those of a list it is interpolated."""
        if len(self.t) == 1 or place.depth is None:
            return self.t[0] if len(self.t) == 1 else self.outside
        position = place.depth * (len(self.t) - 1)
        low = min(int(position), len(self.t) - 2)
        return self.t[low] + (position - low) * (self.t[low + 1] - self.t[low])


class LayerSwap(Merge):
    """Whole blocks of one input in another one; where they meet, some blocks are the mean of both.

    Args:
        layers: Number of an input by ranges of blocks: ``{"0-3": 1, "10-11": 1}`` takes the first four and the last two
            blocks of a network of twelve from the second input. Other blocks are those of the first input.
        outside: Number of an input by patterns of names, for what stands outside of blocks (embeddings, head, norms);
            what no pattern matches is that of the first input. Tied embeddings take the head along.
        transition: Number of blocks on each side of a border that are the mean of the inputs that meet there.

    Source: L. Bandarkar et al., "Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language Models", 2024,
    arXiv 2410.01335.

    Example:
        >>> merge, inputs = LayerSwap({"0": 1}), [torch.tensor([1.0]), torch.tensor([2.0])]
        >>> [merge.combine(TensorPlace("w", "h", block, 2), None, inputs).item() for block in (0, 1)]
        [2.0, 1.0]
    """

    def __init__(
        self,
        layers: dict[str, NonNegativeInt],
        outside: dict[str, NonNegativeInt] | None = None,
        transition: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        checked(locals())
        self.outside, self.transition = outside or {}, transition
        self.layers = [(*self._range(text), number) for text, number in layers.items()]

    def _range(self, text: str) -> tuple[int, int]:
        first, _, last = str(text).partition("-")
        if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
            raise ConfigError("layers", text, "numbers of blocks, such as 3 or 0-3")
        return int(first), int(last or first)

    @override
    def check(
        self, places: Mapping[str, TensorPlace], number: int, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        super().check(places, number, shapes)
        largest = max([0, *(of for _, _, of in self.layers), *self.outside.values()])
        if largest >= number:
            raise ConfigError("layers", largest, f"numbers of inputs, 0 to {number - 1}")
        blocks = max((place.blocks for place in places.values()), default=0)
        last = max((last for _, last, _ in self.layers), default=0)
        if last >= blocks:
            raise ConfigError("layers", last, f"blocks of these networks, 0 to {blocks - 1}" if blocks else "no blocks")
        _match_all("outside", self.outside, places)

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if place.block is None:
            return inputs[_by_pattern(self.outside, place.name, 0)].clone()
        here = self._of(place.block)
        near = range(max(0, place.block - self.transition), min(place.blocks - 1, place.block + self.transition) + 1)
        meeting = sorted({here, *(self._of(block) for block in near)})
        return arithmetic.linear([inputs[number] for number in meeting], [1 / len(meeting)] * len(meeting))

    def _of(self, block: int) -> int:
        return next((number for first, last, number in self.layers if first <= block <= last), 0)


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), default)


def _match_all(argument: str, patterns: Mapping[str, object], places: Mapping[str, TensorPlace]) -> None:
    """Refuse a pattern that no name outside of blocks matches."""
    outside = [place.name for place in places.values() if place.block is None]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in outside):
            raise ConfigError(argument, pattern, f"a pattern of names outside of blocks: {', '.join(outside[:8])}")
