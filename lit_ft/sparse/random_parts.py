"""Random selections; each is a function of its seed and of the names of the network."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import Entry, ParameterIndex
from lit_ft.core.roles import entries_of
from lit_ft.core.selection.base import Choices, Selection, either
from lit_ft.sparse.top import budgets

Unit = list[tuple[str, Tensor | bool]]


def generator(seed: int, *place: object) -> torch.Generator:
    """A generator that depends on a seed and a place only, not on earlier draws."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class RandomHalf(Selection):
    r"""Half of the matrices of every block and category, as in half fine-tuning.

    In each block 2 of the 4 attention matrices (in general half of them); of the feed-forward matrices half over the
    blocks, where blocks with an odd number of them take turns (1 and 2 of 3); half of all norms. A bias goes with its
    matrix. The parts of a fused qkv are drawn like single matrices. The selected half is trained.

    Args:
        seed: Seed of the draw.
        embeddings: Whether the parameters before the blocks are selected.
        head: Whether the parameters after the blocks are selected; those of a new head must be. Norms are never part of
            this: half of them are drawn. A head that is tied to the embedding counts as embedding.
        draw: Number of the stage; each has its own draw.

    Source: T. Hui et al., "HFT: Half Fine-Tuning for Large Language Models", 2024, arXiv 2404.18466. The choice for
    embedding and head is ours: we could not verify that of the authors.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> chosen = RandomHalf(seed=0).select(MLP((8,), 2, width=8, depth=4))
        >>> sum(chosen[f"blocks.{number}.linear.weight"] for number in range(4))
        2
        >>> chosen["head.weight"]
        True
    """

    def __init__(self, seed: int = 0, embeddings: bool = False, head: bool = True, draw: int = 0) -> None:
        if draw < 0:
            raise ConfigError("draw", draw, "a whole number of at least 0")
        self.seed, self.embeddings, self.head, self.draw = seed, embeddings, head, draw

    def redrawn(self, draw: int) -> "RandomHalf":
        """The selection with another half."""
        return RandomHalf(self.seed, self.embeddings, self.head, self.draw + draw)

    def recipe(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "class": "RandomHalf",
            "seed": self.seed,
            "embeddings": self.embeddings,
            "head": self.head,
            "draw": self.draw,
        }

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Select whole matrices, and parts of fused ones."""
        if not index.stacks:
            raise ConfigError("selection", "RandomHalf", "a network with a list of repeated blocks")
        chosen: Choices = {}
        groups: dict[tuple[str, str, int], dict[str, Unit]] = {}
        norms: dict[str, Unit] = {}
        for entry in index.values():
            if entry.category == "norm":
                norms.setdefault(entry.name.rpartition(".")[0], []).append((entry.name, True))
            elif entry.stack is None or entry.block is None:
                chosen[entry.name] = self.embeddings if entry.depth == 0 else self.head
            else:
                units = groups.setdefault((entry.stack, entry.category, entry.block), {})
                for role, mask in _matrices(entry).items():
                    units.setdefault(role, []).append((entry.name, mask))
        self._take(chosen, norms, len(norms) // 2, "norm")
        by_category: dict[tuple[str, str], list[int]] = {}
        for stack, category, block in groups:
            by_category.setdefault((stack, category), []).append(block)
        for (stack, category), blocks in by_category.items():
            turn = torch.randperm(len(blocks), generator=generator(self.seed, self.draw, stack, category)).tolist()
            for place, block in zip(turn, blocks, strict=True):
                units = groups[stack, category, block]
                extra = len(units) % 2 and place < len(blocks) // 2
                self._take(chosen, units, len(units) // 2 + int(extra), stack, category, block)
        return chosen

    def _take(self, chosen: Choices, units: dict[str, Unit], number: int, *place: object) -> None:
        names = list(units)
        for i in torch.randperm(len(names), generator=generator(self.seed, self.draw, *place)).tolist()[:number]:
            for name, mask in units[names[i]]:
                chosen[name] = either(chosen.get(name, False), mask)


def _matrices(entry: Entry) -> dict[str, Tensor | bool]:
    """A parameter by matrix: itself, or the parts of a fused one."""
    if entry.parts:
        return {role: entries_of(part, entry.parameter.shape) for role, part in entry.parts.items()}
    return {entry.name.rpartition(".")[0]: True}


class RandomElements(Selection):
    """Single entries drawn at random, exactly the given share of each tensor.

    Args:
        density: Share of the entries, in (0, 1]; the number in a tensor is rounded to the nearest. A share that selects
            nothing is refused.
        seed: Seed of the draw.
        patterns: Shell globs of the parameters that are drawn from. The others are not selected, or all of them
            with ``others``.
        others: Whether parameters that no pattern matches are selected as a whole.
        draw: Number of the stage; each has its own draw.

    Example:
        >>> chosen = RandomElements(density=0.25, seed=0).select(nn.Linear(8, 4))
        >>> {name: int(mask.sum()) for name, mask in chosen.items()}
        {'weight': 8, 'bias': 1}
    """

    def __init__(
        self, density: float, seed: int = 0, patterns: list[str] | None = None, others: bool = False, draw: int = 0
    ) -> None:
        if not 0 < density <= 1:
            raise ConfigError("density", density, "a share in (0, 1]")
        self.density, self.seed, self.patterns, self.others, self.draw = density, seed, patterns, others, draw

    def redrawn(self, draw: int) -> "RandomElements":
        """The selection with other entries."""
        return RandomElements(self.density, self.seed, self.patterns, self.others, self.draw + draw)

    def recipe(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "class": "RandomElements",
            "density": self.density,
            "seed": self.seed,
            "patterns": self.patterns,
            "others": self.others,
            "draw": self.draw,
        }

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """A mask for each tensor that the patterns match."""
        drawn = list(index.entries if self.patterns is None else index.match(self.patterns))
        numbers = budgets(self.density, [index[name].parameter.numel() for name in drawn])
        chosen: Choices = dict.fromkeys(index.entries, self.others)
        for name, number in zip(drawn, numbers, strict=True):
            parameter = index[name].parameter
            order = torch.randperm(parameter.numel(), generator=generator(self.seed, self.draw, name))[:number]
            mask = torch.zeros(parameter.numel(), dtype=torch.bool)
            mask[order] = True
            chosen[name] = mask.view(parameter.shape)
        return chosen
