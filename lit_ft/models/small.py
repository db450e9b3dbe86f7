"""Small networks of our own for images and vectors of numbers."""

from __future__ import annotations

import inspect
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lit_ft.core.checks import NonNegativeInt, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError, nearest

Activation = Literal["relu", "tanh", "gelu", "silu", "elu", "identity"]
Share = Annotated[float, Range(low=0, below=1)]
ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "identity": nn.Identity,
}


class MLPBlock(nn.Module):
    """Linear map, activation, dropout."""

    def __init__(self, inputs: int, outputs: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, outputs)."""
        return self.dropout(self.activation(self.linear(x)))


class MLP(nn.Module):
    """Fully connected network; an image is flattened.

    Args:
        input_shape: Shape of one row: ``(features,)`` or ``(channels, height, width)``.
        num_outputs: Classes, or numbers to predict.
        width: Units of each hidden layer.
        depth: Number of hidden layers; 0 is a linear map.
        activation: ``relu``, ``tanh``, ``gelu``, ``silu``, ``elu`` or ``identity``.
        dropout: Share of hidden units that is dropped in training.

    Example:
        >>> network = MLP((1, 8, 8), num_outputs=10, width=16, depth=1)
        >>> network
        MLP(
          (blocks): ModuleList(
            (0): MLPBlock(
              (linear): Linear(in_features=64, out_features=16, bias=True)
              (activation): ReLU()
              (dropout): Dropout(p=0.0, inplace=False)
            )
          )
          (head): Linear(in_features=16, out_features=10, bias=True)
        )
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: PositiveInt = 64,
        depth: NonNegativeInt = 2,
        activation: Activation = "relu",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        checked(locals())
        sizes = [prod(input_shape)] + [width] * depth
        self.blocks = nn.ModuleList(MLPBlock(a, b, activation, dropout) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_outputs)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, shape (rows, width)."""
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, num_outputs)."""
        return self.head(self.features(x))


class ConvBlock(nn.Module):
    """3 x 3 convolution, optional batch norm, activation, 2 x 2 max pooling, dropout of channels."""

    def __init__(self, inputs: int, outputs: int, activation: str, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width, rounded up."""
        return self.dropout(self.pool(self.activation(self.norm(self.convolution(x)))))


class ConvNet(nn.Module):
    """Convolutions that each halve the image, then a linear head.

    Args:
        input_shape: ``(channels, height, width)``.
        num_outputs: Classes.
        width: Channels of each convolution.
        depth: Number of convolutions.
        activation: As in :class:`MLP`.
        batch_norm: Normalise over the batch after each convolution.
        dropout: Share of channels that is dropped in training.

    Example:
        >>> network = ConvNet((3, 8, 8), num_outputs=10, width=4, depth=2)
        >>> network.features(torch.zeros(5, 3, 8, 8)).shape  # 4 channels of 2 x 2 pixels
        torch.Size([5, 16])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: PositiveInt = 32,
        depth: NonNegativeInt = 2,
        activation: Activation = "relu",
        batch_norm: Literal[True, False] = False,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        checked(locals())
        if len(input_shape) != 3:
            raise ConfigError(
                "network.config.model_type", "cnn", f"images, not vectors of shape {tuple(input_shape)}; use mlp"
            )
        channels = [input_shape[0]] + [width] * depth
        self.blocks = nn.ModuleList(ConvBlock(a, b, activation, batch_norm, dropout) for a, b in pairwise(channels))
        left = [-(-size // 2**depth) for size in input_shape[1:]]
        self.head = nn.Linear(channels[-1] * prod(left), num_outputs)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, shape (rows, features)."""
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, num_outputs)."""
        return self.head(self.features(x))


SMALL: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": ConvNet}


def small_network(
    config: dict[str, Any], input_shape: tuple[int, ...], num_outputs: int, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The network of ``{model_type: mlp | cnn, ...}``, with random weights.

    Args:
        config: ``model_type`` and arguments of :class:`MLP` or :class:`ConvNet`.
        input_shape: Shape of one row of the data.
        num_outputs: Size of the head.
        dtype: Type of the weights.

    Example:
        >>> small_network({"model_type": "mlp", "depth": 0}, input_shape=(4,), num_outputs=2).head
        Linear(in_features=4, out_features=2, bias=True)
    """
    arguments = dict(config)
    kind = SMALL[arguments.pop("model_type")]
    known = [name for name in inspect.signature(kind).parameters if name not in ("input_shape", "num_outputs")]
    for key in arguments:
        if key not in known:
            raise ConfigError(f"network.config.{key}", arguments[key], f"{', '.join(known)}{nearest(key, known)}")
    try:
        return kind(input_shape, num_outputs, **arguments).to(dtype)
    except ConfigError as error:
        if error.owner != kind.__name__:
            raise
        close = nearest(str(error.given), ACTIVATIONS) if error.argument == "activation" else ""
        raise ConfigError(f"network.config.{error.argument}", error.given, error.allowed + close) from None
