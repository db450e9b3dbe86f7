"""EfficientNet-Lite0 with packaged weights."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_ft.sources.assets import packaged

ASSET = "efficientnet-lite0"
CLASSES = 1000  # of ImageNet

_STAGES = (  # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class SameConv(nn.Conv2d):
    """Convolution whose output has ``ceil(size / stride)`` pixels; an odd padding is larger at right and bottom.

    Example:
        >>> SameConv(1, 1, kernel_size=3, stride=2)(torch.zeros(1, 1, 5, 5)).shape
        torch.Size([1, 1, 3, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad as the weights expect, then convolve."""
        padding: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def _unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    convolution = SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01))


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection; added to the input if the shape is the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _unit(inputs, wide) if expansion > 1 else None
        self.depthwise = _unit(wide, wide, kernel, stride, groups=wide)
        self.project = _unit(wide, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, outputs, height / stride, width / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Image classifier of 4.65 M parameters for colour images in [-1, 1], best at 224 x 224; any size works.

    Source: M. Tan, Q. Le, EfficientNet, 2019, arXiv 1905.11946; the Lite variant has ReLU6 and no squeeze and excite.
    Equal to the package efficientnet-lite-pytorch 0.1.0 to the last bit at 224 x 224, in eval mode. Stochastic depth is
    left out: it is a recipe for training from scratch.

    Args:
        num_labels: Number of classes.
        dropout: Dropout before the head, in training.

    See also: :func:`packaged_efficientnet`, which loads the weights.

    Example:
        >>> network = EfficientNetLite0(num_labels=1000)
        >>> sum(p.numel() for p in network.parameters())
        4652008
        >>> network.eval()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1000])
    """

    def __init__(self, num_labels: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = _unit(3, 32, 3, 2)
        self.blocks, inputs = nn.ModuleList(), 32
        for expansion, outputs, repeats, stride, kernel in _STAGES:
            for number in range(repeats):
                step = stride if number == 0 else 1
                self.blocks.append(InvertedBottleneck(inputs, outputs, expansion, step, kernel))
                inputs = outputs
        self.last = _unit(inputs, 1280)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1280, num_labels)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, shape (rows, 1280)."""
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.last(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (rows, num_labels)."""
        return self.head(self.dropout(self.features(x)))


_NAMES = (
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_conv_head\.", "last.0."),
    (r"^_bn1\.", "last.1."),
    (r"^_fc\.", "head."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.0."),
    (r"\._bn0\.", ".expand.1."),
    (r"\._depthwise_conv\.", ".depthwise.0."),
    (r"\._bn1\.", ".depthwise.1."),
    (r"\._project_conv\.", ".project.0."),
    (r"\._bn2\.", ".project.1."),
)


def packaged_efficientnet(num_labels: int) -> EfficientNetLite0:
    """The network trained on ImageNet; the head is new unless there are 1,000 classes."""
    state: dict[str, Tensor] = {}
    for name, tensor in torch.load(packaged(ASSET), weights_only=True).items():
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        state[name] = tensor
    network = EfficientNetLite0(num_labels)
    if num_labels != CLASSES:
        state |= {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
    network.load_state_dict(state)
    return network
