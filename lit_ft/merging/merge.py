"""Merges: what becomes of each tensor of the inputs."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from typing_extensions import override

from lit_ft.core.errors import ConfigError
from lit_ft.merging import arithmetic
from lit_ft.merging.places import TensorPlace


class Merge:
    """One tensor of several networks becomes one: a subclass implements ``combine``.

    What is combined is in float32 or wider, and the result is rounded once, by whoever writes it.

    Args:
        weight: One number for each input, in their order; None is the default of the merge.

    Attributes:
        needs_base: Whether the merge is one of changes to a base.
        inputs: The number of inputs that it takes; None takes any.
    """

    needs_base = False
    inputs: int | None = None

    def __init__(self, weight: list[float] | None = None) -> None:
        self.weight = weight

    def weights(self, number: int) -> list[float]:
        """One number for each of ``number`` inputs."""
        if self.weight is None:
            return self.default(number)
        if len(self.weight) != number:
            raise ConfigError("weight", self.weight, f"{number} numbers, one for each input")
        return [float(weight) for weight in self.weight]

    def default(self, number: int) -> list[float]:
        """What the weights are unless they are given."""
        return [1.0] * number

    def check(
        self, places: Mapping[str, TensorPlace], number: int, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        """Refuse inputs that do not fit, before a tensor is read.

        Args:
            places: Where each tensor that is merged stands.
            number: How many inputs there are.
            shapes: The shape of each tensor.
        """
        if self.inputs is not None and number != self.inputs:
            raise ConfigError("inputs", number, f"{self.inputs} for {type(self).__name__}")
        if number < 1:
            raise ConfigError("inputs", number, "at least one")
        self.weights(number)

    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        """The merged tensor.

        Args:
            place: Where the tensor stands.
            base: That of the base; None without one, or where the base has no such tensor.
            inputs: Those of the inputs.
        """
        raise NotImplementedError

    def without_base(self, place: TensorPlace, inputs: Sequence[Tensor]) -> Tensor:
        """The merged tensor where the base has none, such as a head: there is no change of it, so it is a mean."""
        weights = [abs(weight) for weight in self.weights(len(inputs))]
        total = sum(weights)
        return arithmetic.linear(inputs, [w / total if total else 1 / len(inputs) for w in weights])


class LinearMerge(Merge):
    r"""The weighted mean of the inputs, a model soup: :math:`\theta = \sum_t w_t \theta_t`.

    Args:
        weight: One for each input, used as written; the default is an equal share each. Weights that do not sum to one
            scale the network, and that is said.

    Source: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", 2022, arXiv 2203.05482.

    See also: :class:`TaskArithmetic`, which adds changes to a base.

    Example:
        >>> LinearMerge().combine(TensorPlace("w"), None, [torch.tensor([1.0]), torch.tensor([3.0])])
        tensor([2.])
    """

    @override
    def default(self, number: int) -> list[float]:
        return [1 / number] * number

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        return arithmetic.linear(inputs, self.weights(len(inputs)))


class TaskArithmetic(Merge):
    r"""The sum of the changes that the inputs made to a base.

    .. math:: \theta = \theta_0 + \sum_t w_t (\theta_t - \theta_0)

    A weight of 1 beside zeros gives that input bit by bit, zeros alone give the base.

    Args:
        weight: One for each input; the default is 1.

    Source: G. Ilharco et al., "Editing Models with Task Arithmetic", 2022, arXiv 2212.04089.

    Example:
        >>> TaskArithmetic([0.5]).combine(TensorPlace("w"), torch.tensor([1.0]), [torch.tensor([2.0])])
        tensor([1.5000])
    """

    needs_base = True

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        return self.scaled(base, inputs, self.scales(place, len(inputs)))

    def scales(self, place: TensorPlace, number: int) -> list[float]:
        """The weight of each input's change at a place."""
        return self.weights(number)

    @staticmethod
    def scaled(base: Tensor, inputs: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
        """The base with scaled changes, exact where a change is taken whole or not at all."""
        counting = [(tensor, scale) for tensor, scale in zip(inputs, scales, strict=True) if scale != 0]
        if not counting:
            return base.clone()
        if len(counting) == 1 and counting[0][1] == 1:
            return counting[0][0].clone()
        return arithmetic.added(base, [tensor - base for tensor, _ in counting], [scale for _, scale in counting])
