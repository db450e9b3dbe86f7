"""What merges compute on the same tensor of several networks; everything is in float32 or wider.

A *delta* is a tuned tensor minus that of the base. Nothing draws from the global random numbers.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.sparse.top import top_masks


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""The weighted sum :math:`\sum_t w_t \theta_t`; one weight of 1 beside zeros gives that tensor bit by bit.

    Example:
        >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], [0.5, 0.5])
        tensor([2., 1.])
    """
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        if weight == 0:
            continue
        if total is None:
            total = tensor.clone() if weight == 1 else tensor * weight
        else:
            total.addcmul_(tensor, tensor.new_tensor(weight))  # rounded once for product and sum
    return torch.zeros_like(tensors[0]) if total is None else total


def added(base: Tensor, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""Task arithmetic :math:`\theta_0 + \sum_t w_t \tau_t`.

    Example:
        >>> added(torch.tensor([1.0]), [torch.tensor([2.0]), torch.tensor([-1.0])], [1.0, 0.5])
        tensor([2.5000])
    """
    return base + linear(deltas, weights)


def largest(delta: Tensor, density: float) -> Tensor:
    """A mask of the k = max(1, int(density * n)) entries of largest magnitude; of equal ones the first by position.

    With a density of 0 it is empty. Zeros are never among them.

    Example:
        >>> largest(torch.tensor([1.0, -3.0, 3.0, 3.0]), density=0.5)
        tensor([False,  True,  True, False])
    """
    number = max(1, int(density * delta.numel())) if density > 0 and delta.numel() else 0
    if number == 0:
        return torch.zeros_like(delta, dtype=torch.bool)
    flat = delta.flatten()
    if number == delta.numel():
        return delta != 0
    found = top_masks({"": lambda start, stop: flat[start:stop].abs()}, {"": delta.shape}, number)[""]
    return found & (delta != 0)


def ties(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    density: float = 0.2,
    sign: Literal["mass", "count"] = "mass",
) -> Tensor:
    r"""Trimmed deltas, of which those that agree with the elected sign are averaged.

    1. *Trim*: of each delta the largest share is kept, see :func:`largest`.
    2. *Elect*: of each entry the sign of :math:`\sum_t w_t \tau_t` (``mass``), or of :math:`\sum_t \mathrm{sign}(w_t
       \tau_t)` (``count``); where it is 0, plus.
    3. *Average*: :math:`\sum_t w_t \tau_t / \sum_t w_t` over the inputs that agree and are not zero.

    Sums are in float64, so that they do not depend on the order of the inputs.

    Args:
        deltas: Of one tensor.
        weights: One for each.
        density: Share that is kept, in [0, 1].
        sign: Whether an entry's size counts in the vote.

    Source: P. Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv 2306.01708.
    Deviation: the share is of each tensor, as in later libraries, not of the whole network; inputs have weights.

    Example:
        >>> deltas = [torch.tensor([4.0, 0.1]), torch.tensor([-1.0, 0.2]), torch.tensor([2.0, 0.3])]
        >>> ties(deltas, [1, 1, 1], density=0.5)
        tensor([3., 0.])
    """
    kept = [
        torch.where(largest(delta, density), delta, 0).double() * w for delta, w in zip(deltas, weights, strict=True)
    ]
    votes = kept if sign == "mass" else [delta.sign() for delta in kept]
    plus = sum_of(votes) >= 0
    total, mass = torch.zeros_like(kept[0]), torch.zeros_like(kept[0])
    for delta, weight in zip(kept, weights, strict=True):
        agrees = torch.where(plus, delta > 0, delta < 0)
        total += torch.where(agrees, delta, 0)
        mass += agrees * weight
    return torch.where(mass == 0, 0, total / mass).to(deltas[0].dtype)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of some tensors of one shape.

    Example:
        >>> sum_of([torch.ones(1), torch.ones(1)])
        tensor([2.])
    """
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def dare(delta: Tensor, density: float, generator: torch.Generator, rescale: bool = True) -> Tensor:
    r"""Keeps each entry with the probability ``density`` and divides what is kept by it, so that the mean stays.

    Args:
        delta: Of one tensor.
        density: Probability that an entry is *kept*, in (0, 1]; the paper's drop rate is 1 minus it.
        generator: Of the CPU, so that every device draws the same; see :func:`draw_of`.
        rescale: Whether what is kept is divided by ``density``.

    Source: L. Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2023, arXiv 2311.03099.

    Example:
        >>> kept = dare(torch.ones(1000), 0.25, torch.Generator().manual_seed(0))
        >>> sorted(set(kept.tolist())), round(kept.mean().item(), 1)
        ([0.0, 4.0], 1.0)
    """
    if density == 1:
        return delta
    kept = torch.rand(delta.shape, generator=generator) < density
    return torch.where(kept.to(delta.device), delta / density if rescale else delta, 0)


def draw_of(seed: int, name: str, delta: Tensor, again: int = 0) -> torch.Generator:
    """Random numbers of one tensor of one input: a function of the seed, the tensor's name and what is in it.

    Two inputs differ in what is in them, so they get different numbers, whatever their order, shards and devices.

    Args:
        seed: Of the merge.
        name: Of the tensor.
        delta: Of this input.
        again: How many inputs before it have the same delta.

    Example:
        >>> one, other = (torch.rand(2, generator=draw_of(0, "w", torch.tensor([v]))) for v in (1.0, 2.0))
        >>> torch.equal(one, other)
        False
    """
    flat = delta.detach().flatten().cpu()
    sample = flat[:: max(1, flat.numel() // 1024)].double()
    text = f"{seed} {name} {tuple(delta.shape)} {again}".encode()
    digest = hashlib.sha256(text + sample.numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    r"""The point at ``t`` on the arc between two tensors, taken as vectors.

    .. math:: \frac{\sin((1-t)\Omega)}{\sin\Omega} a + \frac{\sin(t\Omega)}{\sin\Omega} b, \qquad
              \cos\Omega = \frac{a \cdot b}{|a| |b|}

    0 and 1 give the tensors bit by bit. Where the arc is not defined (a zero vector, or nearly parallel ones) it is the
    line between them.

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
        tensor([0.7071, 0.7071])
    """
    if t in (0, 1):
        return (second if t else first).clone()
    a, b = first.double(), second.double()
    lengths = a.norm() * b.norm()
    cosine = float((a * b).sum() / lengths) if lengths > 0 else 1.0
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if math.sin(angle) < 1e-4:
        return (a * (1 - t) + b * t).to(first.dtype)
    mixed = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    return mixed.to(first.dtype)


def breadcrumbs(delta: Tensor, density: float, outliers: float) -> Tensor:
    """The delta without its largest share (``outliers``) and without its smallest, so that ``density`` is kept.

    Args:
        delta: Of one tensor.
        density: Share that is kept.
        outliers: Share of largest entries that is dropped, the paper's gamma.

    Source: M. Davari, E. Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", 2023,
    arXiv 2312.06795.

    Example:
        >>> breadcrumbs(torch.tensor([9.0, 3.0, 2.0, 1.0]), density=0.5, outliers=0.25)
        tensor([0., 3., 2., 0.])
    """
    if density + outliers > 1:
        raise ConfigError("density", density, f"at most {1 - outliers:g} beside outliers of {outliers:g}")
    dropped = int(outliers * delta.numel())
    without = torch.where(largest(delta, dropped / delta.numel()), 0, delta) if dropped else delta
    return torch.where(largest(without, density), without, 0)


def stock_share(deltas: Sequence[Tensor]) -> float:
    r"""How far towards the mean of the deltas Model Stock goes: :math:`\frac{T \cos}{1 + (T-1) \cos}`.

    ``cos`` is the mean cosine between two deltas; below 0 it counts as 0.

    Source: D. Jang et al., "Model Stock: All we need is just a few fine-tuned models", 2024, arXiv 2403.19522.

    Example:
        >>> stock_share([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])])
        1.0
        >>> stock_share([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        0.0
    """
    flat = [delta.double().flatten() for delta in deltas]
    norms = [float(delta.norm()) for delta in flat]
    pairs = [(i, j) for i in range(len(flat)) for j in range(i)]
    cosines = [float(flat[i] @ flat[j]) / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0 for i, j in pairs]
    cosine = max(0.0, math.fsum(cosines) / len(cosines)) if cosines else 1.0
    number = len(deltas)
    return number * cosine / (1 + (number - 1) * cosine)
