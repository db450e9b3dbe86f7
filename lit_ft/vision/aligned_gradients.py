"""Inputs moved towards a class along the gradient of a classifier, and whether another classifier agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.evaluating import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def towards(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    budget: float,
    sigma: float = 0.0,
    steps: int = 20,
    samples: int = 20,
    seed: int = 0,
) -> Tensor:
    r"""Maximise the smoothed score of a class inside a ball around each input.

    .. math:: x \leftarrow \Pi_{\|x - x_0\| \le B}\big(x + s\, g / \|g\|\big), \quad
        g = \nabla_x\, E_{\epsilon \sim N(0, \sigma^2)}\, f_t(x + \epsilon)

    with f the logits and a step s of 2.5 B over the number of steps. For robust classifiers the results look like the
    class: their gradients are perceptually aligned. Runs in evaluation mode. Cost: ``steps`` forward and backward
    passes over ``samples`` copies (one without noise).

    Source: S. Kaur, J. Cohen, Z. Lipton, "Are Perceptually-Aligned Gradients a General Property of Robust
    Classifiers?", 2019, arXiv 1910.08640. The score is the mean logit, not the mean probability.

    Args:
        network: Maps (rows, ...) to logits (rows, classes).
        images: x_0, shape (rows, ...).
        targets: Classes to move to, shape (rows,).
        budget: B, L2 radius in the units of the input, above 0.
        sigma: Standard deviation of the noise, at least 0; that of training with ``GaussianNoise``.
        steps: Gradient steps, at least 1.
        samples: Noisy copies per step, at least 1.
        seed: Seed of the noise.

    See also: :func:`agreement`.

    Example:
        >>> network = nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> towards(network, torch.zeros(1, 2), targets=torch.tensor([1]), budget=0.5)
        tensor([[0.5000, 0.0000]])
    """
    for name, value, least in (("budget", budget, 0), ("steps", steps, 1), ("samples", samples, 1)):
        if value < least or value == 0:
            raise ConfigError(name, value, f"above 0{', a whole number' if least else ''}")
    if sigma < 0:
        raise ConfigError("sigma", sigma, "0 or more")
    generator = torch.Generator().manual_seed(seed)
    moved = images.detach().clone()
    flat = (len(images), *(1 for _ in images.shape[1:]))
    with evaluating(network):
        for _ in range(steps):
            x = moved.clone().requires_grad_()
            with torch.enable_grad():
                total = x.new_zeros(())
                for _ in range(samples if sigma else 1):
                    noise = torch.randn(x.shape, generator=generator).to(x) * sigma if sigma else 0
                    total = total + network(x + noise).gather(1, targets[:, None]).sum()
            (gradient,) = torch.autograd.grad(total, x)
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(flat)
            offset = moved + 2.5 * budget / steps * gradient / length - images
            outside = (offset.flatten(1).norm(dim=1) / budget).clamp(min=1).view(flat)
            moved = images + offset / outside
    return moved


@torch.no_grad()
def agreement(network: nn.Module, judge: nn.Module, moved: Tensor, targets: Tensor) -> float:
    """Among inputs that the network assigns to their target, the share where an independent classifier agrees.

    Args:
        network: The network whose gradients were followed.
        judge: Independent classifier that maps inputs to scores of the classes (such as nearest neighbours).
        moved: Inputs from :func:`towards`, shape (rows, ...).
        targets: Classes that they were moved to, shape (rows,).

    Example:
        >>> network = judge = nn.Identity()
        >>> agreement(network, judge, torch.tensor([[2.0, 1.0], [1.0, 2.0]]), targets=torch.tensor([0, 0]))
        1.0
    """
    reached = network(moved).argmax(-1) == targets
    return (judge(moved[reached]).argmax(-1) == targets[reached]).double().mean().item() if reached.any() else 0.0


def pictures(images: Tensor, moved: Tensor, titles: list[str]) -> Figure:
    """A figure of inputs above the moved inputs, one column each.

    Args:
        images: Shape (rows, height, width).
        moved: The same shape.
        titles: One per column, such as ``3 to 8``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(images), 2.6), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, title in enumerate(titles):
        for axes, image in zip(grid[:, column], (images[column], moved[column]), strict=True):
            axes.imshow(image.cpu().numpy(), cmap="gray_r")
            axes.set_axis_off()
        grid[0, column].set_title(title, fontsize="small")
    return figure
