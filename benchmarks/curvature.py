"""Leading Hessian eigenvalues along a training path: ours beside three public ways, in one run.

Each way measures the same weights and is compared with the same reference (ARPACK, 60 vectors, tol 1e-6). Times are CPU
seconds of this process, so that other programs on the machine do not count. Peers that are not installed are left out:
``pip install curvlinops-for-pytorch pyhessian scipy``.

    python benchmarks/curvature.py --steps 12 --threads 1 --json curvature.json

- ours: ``lit_ft.core.curvature`` with a ``WarmSubspace``, at tol 1e-3 and at the default 1e-4
- locuslab's way: ``scipy.sparse.linalg.eigsh`` with its defaults, a fresh graph for each product
- eigsh, kept graph: the same with tol 1e-3 and one graph
- curvlinops: its Hessian operator and eigsh at tol 1e-3
- PyHessian: its power iteration, at its defaults and at tol 1e-5 and 500 iterations, which a 1e-3 answer takes
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_ft.core.curvature import Hessian, Objective, WarmSubspace, hessian_eigenvalues


@dataclass
class Task:
    """A network on its path: what is measured, how many eigenvalues, and how often."""

    name: str
    module: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    rate: float
    k: int
    every: int
    warmup: int

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """As ``hessian_eigenvalues`` wants it."""
        return self.criterion(module(batch[0]), batch[1])

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """All rows."""
        return self.x, self.y


class SquaredError(nn.Module):
    """Half the squared distance, averaged over rows; curvlinops asks a loss for its ``reduction``."""

    reduction = "mean"

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Mean over rows."""
        return 0.5 * (z - y).square().sum(1).mean()


def tasks(warmup: int) -> Iterator[Task]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))[:1500]
    x = torch.tensor(digits.data, dtype=torch.float32)[rows] / 16
    x, y = x - x.mean(), torch.tensor(digits.target)[rows]
    one_hot = nn.functional.one_hot(y, 10).float()

    def mlp() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10))

    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    yield Task("MLP at the edge, k=1, every step", mlp(), SquaredError(), x, one_hot, 0.15, 1, 1, warmup)
    yield Task("MLP at the edge, k=4, every 10", mlp(), SquaredError(), x, one_hot, 0.15, 4, 10, warmup)
    yield Task("CNN below the edge, k=2, every 5", cnn, nn.CrossEntropyLoss(), x, y, 0.2, 2, 5, warmup // 10)


def snapshots(task: Task, steps: int) -> list[list[Tensor]]:
    """Weights along plain gradient descent, after the warm-up."""
    parameters, kept = list(task.module.parameters()), []
    for step in range(task.warmup + (steps - 1) * task.every + 1):
        if step >= task.warmup and (step - task.warmup) % task.every == 0:
            kept.append([p.detach().clone() for p in parameters])
        gradients = torch.autograd.grad(task.loss(task.module, task.batch), parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= task.rate * g
    return kept


def ours(task: Task, tol: float) -> Callable[[], tuple[np.ndarray, int]]:
    warm = WarmSubspace()

    def measure() -> tuple[np.ndarray, int]:
        found = hessian_eigenvalues(task.module, [task.batch], task.k, tol, task.loss, warm=warm)
        return found.values.numpy(), found.products

    return measure


def eigsh(task: Task, product: Callable[[Tensor], Tensor], **options: Any) -> tuple[np.ndarray, int]:
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as arpack

    count = 0

    def multiply(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return product(torch.tensor(vector, dtype=torch.float32)).numpy()

    size = sum(p.numel() for p in task.module.parameters())
    values = arpack(LinearOperator((size, size), matvec=multiply), k=task.k, return_eigenvectors=False, **options)
    return np.sort(values)[::-1], count


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def fresh_graph(task: Task) -> Callable[[], tuple[np.ndarray, int]]:
    parameters = list(task.module.parameters())

    def product(vector: Tensor) -> Tensor:
        gradients = torch.autograd.grad(task.loss(task.module, task.batch), parameters, create_graph=True)
        dot = flat(gradients) @ vector
        return flat(torch.autograd.grad(dot, parameters))

    return lambda: eigsh(task, product)


def kept_graph(task: Task, **options: Any) -> Callable[[], tuple[np.ndarray, int]]:
    def measure() -> tuple[np.ndarray, int]:
        objective = Objective(task.module, [task.batch], task.loss)
        with objective.evaluating():
            hessian = Hessian(objective)
            return eigsh(task, lambda vector: hessian.apply(vector[None])[0], **options)

    return measure


def curvlinops(task: Task) -> Callable[[], tuple[np.ndarray, int]]:
    from curvlinops import HessianLinearOperator

    parameters = list(task.module.parameters())

    def measure() -> tuple[np.ndarray, int]:
        operator = HessianLinearOperator(
            task.module, task.criterion, parameters, [task.batch], check_deterministic=False
        )
        return eigsh(task, lambda vector: (operator @ vector).detach(), tol=1e-3)

    return measure


def pyhessian(task: Task, **options: Any) -> Callable[[], tuple[np.ndarray, int]]:
    module = importlib.import_module("pyhessian.hessian")  # the package hides it behind a class of that name

    count = 0
    product = module.hessian_vector_product

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return product(*arguments)

    def measure() -> tuple[np.ndarray, int]:
        nonlocal count
        count, module.hessian_vector_product = 0, counted
        try:
            tool = module.hessian(task.module, task.criterion, data=task.batch, cuda=False)
            values, _ = tool.eigenvalues(top_n=task.k, **options)
        finally:
            module.hessian_vector_product = product
        task.module.zero_grad()
        return np.array(values), count

    return measure


WAYS: dict[str, Callable[[Task], Callable[[], tuple[np.ndarray, int]]]] = {
    "ours, tol 1e-3": lambda task: ours(task, 1e-3),
    "ours, tol 1e-4 (default)": lambda task: ours(task, 1e-4),
    "locuslab's way": fresh_graph,
    "eigsh 1e-3, kept graph": lambda task: kept_graph(task, tol=1e-3),
    "curvlinops + eigsh 1e-3": curvlinops,
    "PyHessian, defaults": pyhessian,
    "PyHessian, tol 1e-5": lambda task: pyhessian(task, tol=1e-5, maxIter=500),
}


def compare(task: Task, steps: int) -> dict[str, dict[str, float]]:
    path, rows = snapshots(task, steps), {}
    ways: dict[str, Callable[[], tuple[np.ndarray, int]]] = {}
    for name, make in WAYS.items():
        try:
            ways[name] = make(task)
        except ImportError as error:
            print(f"  {name}: left out ({error})")
    ways["reference"] = kept_graph(task, tol=1e-6, ncv=60, which="LA")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    products: dict[str, list[int]] = {name: [] for name in ways}
    values: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for weights in path:
        with torch.no_grad():
            for p, w in zip(task.module.parameters(), weights, strict=True):
                p.copy_(w)
        for name, measure in ways.items():  # side by side, so that a slow moment of the machine hits all
            start = time.process_time()
            found, spent = measure()
            seconds[name].append(time.process_time() - start)
            products[name].append(spent)
            values[name].append(found)
    truth = np.stack(values.pop("reference"))
    later = slice(1, None) if steps > 1 else slice(None)  # our first measurement is a cold start; it is shown apart
    for name, found in values.items():
        rows[name] = {
            "seconds": float(np.mean(seconds[name][later])),
            "products": float(np.mean(products[name][later])),
            "first_products": float(products[name][0]),
            "error": float(np.abs(np.stack(found) - truth).max() / truth[:, 0].max()),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="measurements a task")
    parser.add_argument("--warmup", type=int, default=1400, help="steps of gradient descent before the first")
    parser.add_argument("--only", default="", help="part of a task's name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    results: dict[str, Any] = {}
    for task in tasks(arguments.warmup):
        if arguments.only not in task.name:
            continue
        print(f"\n{task.name} ({sum(p.numel() for p in task.module.parameters()):,} parameters, 1,500 rows)")
        results[task.name] = rows = compare(task, arguments.steps)
        base = rows["ours, tol 1e-3"]["seconds"]
        print(f"  {'':26}{'ms':>8}{'products':>10}{'first':>7}{'max error':>11}{'time / ours':>13}")
        for name, row in rows.items():
            print(
                f"  {name:26}{1e3 * row['seconds']:8.1f}{row['products']:10.1f}{row['first_products']:7.0f}"
                f"{row['error']:11.1e}{row['seconds'] / base:13.2f}"
            )
    if arguments.json:
        about = {"torch": torch.__version__, "machine": platform.machine(), "threads": arguments.threads}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, "steps": arguments.steps, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
