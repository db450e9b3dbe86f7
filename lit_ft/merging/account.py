"""What a merge did: how far each input changed the base, where inputs agree, what each contributes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lit_ft.merging.places import TensorPlace


@dataclass
class Account:
    """Sums over tensors, added up while they are merged.

    Args:
        labels: What the inputs are called.
        places: Where each tensor stands.
        of_changes: Whether there is a base; else the tensors themselves are compared.
        every: One of so many entries is looked at; sums are scaled up by it.
    """

    labels: Sequence[str]
    places: Mapping[str, TensorPlace]
    of_changes: bool = True
    every: int = 8
    _sums: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    _other: set[int] = field(default_factory=set)

    def add(self, name: str, base: Tensor | None, inputs: Sequence[Tensor], result: Tensor) -> None:
        """Add one tensor."""
        for number, tensor in enumerate(inputs):
            if number not in self._other and not torch.equal(tensor, result):
                self._other.add(number)
        origin = torch.zeros(()) if base is None else base.flatten()[:: self.every]
        deltas = [tensor.flatten()[:: self.every] - origin for tensor in inputs]
        change = result.flatten()[:: self.every] - origin
        row = self._sums[_group(self.places[name])]
        row["entries"] += float(result.numel())
        row["result"] += float(change.dot(change)) * self.every
        for number, delta in enumerate(deltas):
            row[f"change {number}"] += float(delta.dot(delta)) * self.every
            row[f"in {number}"] += float(delta.dot(change)) * self.every
        for i, j in combinations(range(len(deltas)), 2):
            row[f"product {i} {j}"] += float(deltas[i].dot(deltas[j])) * self.every
            opposite = (deltas[i] * deltas[j] < 0).sum()
            row[f"opposite {i} {j}"] += float(opposite) * self.every

    @property
    def same_as(self) -> list[str]:
        """The inputs that the result is equal to, bit by bit."""
        return [label for number, label in enumerate(self.labels) if number not in self._other]

    def table(self) -> list[dict[str, Any]]:
        """One row for each group of tensors: root mean square of changes, cosines and sign conflicts of pairs.

        Example:
            >>> account = Account(["a", "b"], {"w": TensorPlace("w")}, every=1)
            >>> account.add("w", torch.zeros(2), [torch.tensor([3.0, 4.0]), torch.zeros(2)], torch.tensor([3.0, 4.0]))
            >>> row = account.table()[0]
            >>> row["group"], round(row["change"]["a"], 2), row["cosine"]["a, b"]
            ('outside of blocks', 3.54, 0.0)
        """
        rows = []
        for group, sums in self._sums.items():
            count = max(1.0, sums["entries"])
            pairs = list(combinations(range(len(self.labels)), 2))
            lengths = [sums[f"change {number}"] ** 0.5 for number in range(len(self.labels))]
            result = sums["result"]
            rows.append(
                {
                    "group": group,
                    "entries": int(sums["entries"]),
                    "result": (result / count) ** 0.5,
                    "change": {label: lengths[n] / count**0.5 for n, label in enumerate(self.labels)},
                    "share": {
                        label: sums[f"in {n}"] / result if result else 0.0 for n, label in enumerate(self.labels)
                    },
                    "cosine": {
                        f"{self.labels[i]}, {self.labels[j]}": sums[f"product {i} {j}"] / (lengths[i] * lengths[j])
                        if lengths[i] * lengths[j]
                        else 0.0
                        for i, j in pairs
                    },
                    "opposite": {
                        f"{self.labels[i]}, {self.labels[j]}": sums[f"opposite {i} {j}"] / count for i, j in pairs
                    },
                }
            )
        return rows


def _group(place: TensorPlace) -> str:
    return "outside of blocks" if place.block is None else f"{place.stack}.{place.block}"
