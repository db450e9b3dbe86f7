"""Modules whose ``training_step`` writes state, and reads it: each in another way that other people's projects have."""

import collections
import copy
import dataclasses
import io
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.contracts.foreign.project import Net


class Momentum(Net):
    """BYOL, MoCo, DINO: a network without gradient follows the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.enc).requires_grad_(False)

    def follow(self, fast: Tensor, slow: Tensor) -> None:
        slow.mul_(0.9).add_(fast, alpha=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for fast, slow in zip(self.enc.parameters(), self.slow.parameters(), strict=True):
                self.follow(fast, slow)
        return (self.enc(batch[0]) - self.slow(batch[0] + 0.1)).square().mean() + self.loss(batch)


class MomentumInData(Momentum):
    def follow(self, fast: Tensor, slow: Tensor) -> None:
        slow.data.mul_(0.9).add_(fast.data, alpha=0.1)


class MomentumAsNewData(Momentum):
    def follow(self, fast: Tensor, slow: Tensor) -> None:
        slow.data = slow.data * 0.9 + fast.data * 0.1


class MomentumInForeach(Momentum):
    def follow(self, fast: Tensor, slow: Tensor) -> None:
        torch._foreach_lerp_([slow], [fast], 0.1)


class MomentumFromTheThirdStep(Momentum):
    def follow(self, fast: Tensor, slow: Tensor) -> None:
        if self.global_step >= 2:
            super().follow(fast, slow)


class MomentumInAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.teachers = [copy.deepcopy(self.enc).requires_grad_(False)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for fast, slow in zip(self.enc.parameters(), self.teachers[0].parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return (self.enc(batch[0]) - self.teachers[0](batch[0])).square().mean() + self.loss(batch)


class Averaged(Net):
    """Parameters that take a gradient, and get none."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.enc)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.average.update_parameters(self.enc)
        return (self.enc(batch[0]) - self.average(batch[0]).detach()).square().mean() + self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.enc.parameters(), *self.head.parameters()], 0.5)


class Shadow(Net):
    """An average in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow = {name: p.detach().clone() for name, p in self.enc.named_parameters()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        for name, parameter in self.enc.named_parameters():
            self.shadow[name] = 0.9 * self.shadow[name] + 0.1 * parameter.detach()
        away = [(p - self.shadow[name]).abs().sum() for name, p in self.enc.named_parameters()]
        return self.loss(batch) + torch.stack(away).sum()


class Counter(Net):
    """Warms a weight up with an int, in a child module."""

    def __init__(self) -> None:
        super().__init__()
        self.enc.count = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.enc.count += 1
        return self.loss(batch) * (1 + self.enc.count / 10)


@dataclasses.dataclass
class Book:
    steps: int
    scale: Tensor


class Slotted:
    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


class Nested(Net):
    """Counters in lists, dictionaries, deques, dataclasses, arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = {"a": [0, {"b": collections.deque([1], maxlen=3)}]}
        self.book, self.slotted = Book(0, torch.ones(2)), Slotted()
        self.array, self.bytes = np.zeros(3), bytearray(b"\0")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inner: Any = self.tree["a"]
        inner[0] += 1
        inner[1]["b"].append(inner[0])
        self.book.steps += 1
        self.book.scale.mul_(1.1)
        self.slotted.steps += 1
        self.array += 1
        self.bytes[0] += 1
        counted = [sum(inner[1]["b"]), self.book.steps, self.slotted.steps, float(self.array.sum()), self.bytes[0]]
        return self.loss(batch) * (1 + sum(counted) / 100 + self.book.scale.sum())


class Hidden(Net):
    """A hidden state that is carried from batch to batch; it is made in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not hasattr(self, "state"):
            self.state = torch.randn(4, 4)
        state = self.cell(batch[0], self.state)
        self.state = state.detach()
        return self.loss((state, batch[1]))


class Queue(Net):
    """A queue of keys with its pointer, not in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(8, 6), persistent=False)
        self.pointer = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.keys[self.pointer : self.pointer + 4] = self.enc(batch[0]).detach()
        self.pointer = (self.pointer + 4) % 8
        return self.loss(batch) + (self.enc(batch[0]) @ self.keys.T).mean()


class Normalised(Net):
    """A trained weight that the step itself sets to unit rows (SwAV)."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.norm(dim=1, keepdim=True))
        return self.loss(batch)


class NormalisedAsNewData(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.head.weight.data = nn.functional.normalize(self.head.weight.data, dim=1)
        return self.loss(batch)


class OwnRandomness(Net):
    """Random generators of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.of_torch, self.of_numpy = torch.Generator().manual_seed(3), np.random.default_rng(1)
        self.of_python, self.old = random.Random(2), np.random.RandomState(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        drawn = self.of_numpy.random() + self.of_python.random() + self.old.rand()
        return self.loss(batch) * (torch.rand((), generator=self.of_torch) + drawn)


class Scheduled(Net):
    """A scheduler that the step advances."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return self.loss(batch) * (1 + schedule.last_epoch / 10)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 10**9}]


class Rate(Net):
    """The rate of the optimizer, set in the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        return self.loss(batch)


class InnerOptimizer(Net):
    """An optimizer of the module's own, which steps inside of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner = torch.optim.Adam([self.scale], 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (self.scale.grad,) = torch.autograd.grad(self.scale.square().sum(), self.scale)
        self.inner.step()
        self.scale.grad = None
        return self.loss(batch) * self.scale.detach().sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.enc.parameters(), *self.head.parameters()], 0.5)


class DrawnInAHook(Net):
    """What a hook before the step draws and counts is not drawn again."""

    mixed, batches = 0.0, 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.mixed, self.batches = random.random(), self.batches + 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch) * (self.mixed + self.batches) + torch.rand(()) * self.head.bias.sum()


class EditedGradients(Net):
    """DINO and others: the module edits gradients after each backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.share = 0, 1.0

    def on_before_backward(self, loss: Tensor) -> None:
        self.share = 0.5

    def on_after_backward(self) -> None:
        self.passes += 1
        for parameter in self.head.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(self.share).add_(self.passes)


class Held(Net):
    """As lightly's DINO: the last layer has no gradient."""

    def on_after_backward(self) -> None:
        for parameter in self.head.parameters():
            parameter.grad = None


WRITERS: list[type[Net]] = [
    *(Momentum, MomentumInData, MomentumAsNewData, MomentumInForeach, MomentumFromTheThirdStep, MomentumInAList),
    *(Averaged, Shadow, Counter, Nested, Hidden, Queue, Normalised, NormalisedAsNewData, OwnRandomness, Scheduled),
    *(Rate, InnerOptimizer, DrawnInAHook, EditedGradients, Held),
]


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


class Moving(Net):
    """Holds something that cannot be put back, and moves it on in each step."""

    def __init__(self, make: Callable[[], Any], move: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.move = [make()], move

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.move(self.held[0])
        return self.loss(batch)


MOVING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "generator": (_numbers, next),
    "zip": (lambda: zip(range(99), range(99), strict=True), next),
    "StringIO": (lambda: io.StringIO("a line\nanother"), lambda file: file.readline()),
}
