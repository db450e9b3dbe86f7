"""Selections by name and by place."""

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.parameters import Entry, ParameterIndex
from lit_ft.core.roles import ROLES, entries_of
from lit_ft.core.selection.base import Choice, Choices, Selection, either
from lit_ft.core.selection.units import head_units, mark


class Names(Selection):
    """Parameters whose names match shell globs.

    Args:
        patterns: Anchored shell globs over the network's own names (``encoder.layer.0.*``); a star also matches dots.
            A pattern that matches nothing is an error that lists the nearest names.

    See also: :class:`Layers`, which selects by place and role.

    Example:
        >>> Names("*.weight").select(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        {'0.weight': True, '0.bias': False, '1.weight': True, '1.bias': False}
    """

    def __init__(self, patterns: list[str] | str) -> None:
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not self.patterns:
            raise ConfigError("patterns", patterns, "at least one shell glob")

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Select whole tensors."""
        return dict.fromkeys(index.match(self.patterns), True)


class Layers(Selection):
    """Parameters by block and by role, found from the structure of the network.

    A parameter is selected when its block is among ``start`` to ``stop`` (or ``blocks``, or the ``depth`` range) and
    its role is among ``roles``. Fused matrices are selected in part (the query rows of a fused qkv).
    Training all but the embedding and the bottom K blocks is ``Layers(start=K, head=True)``.

    Args:
        start: First block, as in a Python slice; negative numbers count from the end. Applies to every stack of blocks.
        stop: One past the last block.
        blocks: Numbers of single blocks, instead of ``start`` and ``stop``.
        depth: Range of depth within [0, 1], both ends included: 0 is the first block, 1 the last.
        roles: Shell globs over roles (``attention.*``, ``feed_forward.out``, ``norm``); ``bias`` means every bias.
            None takes all.
        embeddings: Also select the parameters before the blocks.
        head: Also select the parameters after the blocks.

    Source: bottom layers frozen as in Telly-K, E. Shi et al., "Towards Efficient Fine-tuning of Pre-trained Code
    Models", 2023, arXiv 2304.05216; ranges of blocks as in CoFiTune, 2024, arXiv 2404.10306.

    See also: :class:`Names`, which selects by name.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> chosen = Layers(start=-1, head=True).select(MLP((4,), 2, depth=3))
        >>> [name for name, choice in chosen.items() if choice]
        ['blocks.2.linear.weight', 'blocks.2.linear.bias', 'head.weight', 'head.bias']
    """

    def __init__(
        self,
        start: int | None = None,
        stop: int | None = None,
        blocks: list[int] | None = None,
        depth: tuple[float, float] | None = None,
        roles: list[str] | None = None,
        embeddings: bool = False,
        head: bool = False,
    ) -> None:
        if blocks is not None and (start is not None or stop is not None):
            raise ConfigError("blocks", blocks, "blocks, or start and stop, but not both")
        if depth is not None and not 0 <= depth[0] <= depth[1] <= 1:
            raise ConfigError("depth", depth, "two numbers in [0, 1], the smaller one first")
        for role in roles or ():
            if role != "bias" and not any(fnmatchcase(known, role) for known in ROLES):
                known = [*ROLES, "bias"]
                raise ConfigError("roles", role, f"globs over {', '.join(known)}{nearest(role, known)}")
        self.start, self.stop, self.blocks, self.depth = start, stop, blocks, depth
        self.roles, self.embeddings, self.head = roles, embeddings, head

    def _blocks(self, index: ParameterIndex) -> dict[str, set[int]]:
        found = {}
        for stack, size in index.stacks.items():
            for number in self.blocks or ():
                if not -size <= number < size:
                    raise ConfigError("blocks", number, f"blocks from {-size} to {size - 1} of {stack}")
            numbers = range(size)
            found[stack] = (
                {numbers[n] for n in self.blocks} if self.blocks is not None else set(numbers[self.start : self.stop])
            )
        return found

    def _role(self, entry: Entry) -> Choice:
        if self.roles is None or (entry.bias and "bias" in self.roles):
            return True
        if any(fnmatchcase(entry.role, role) for role in self.roles):
            return True
        mask: Choice = False
        for role, part in entry.parts.items():
            if any(fnmatchcase(role, wanted) for wanted in self.roles):
                mask = either(mask, entries_of(part, entry.parameter.shape))
        return mask

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Select whole tensors, and parts of fused ones."""
        if not index.stacks:
            raise ConfigError("selection", "Layers", "a network with a list of repeated blocks; use Names for others")
        blocks, chosen = self._blocks(index), {}
        for entry in index.values():
            if entry.stack is not None:
                inside = entry.block in blocks[entry.stack]
                if self.depth is not None:
                    inside = inside and self.depth[0] <= entry.depth <= self.depth[1]
            else:
                inside = self.embeddings if entry.depth == 0 else self.head
            chosen[entry.name] = self._role(entry) if inside else False
        if not any(isinstance(choice, Tensor) or choice for choice in chosen.values()):
            raise ConfigError("selection", "Layers that hold no parameter", f"blocks of {index.stacks} that hold some")
        return chosen


class Heads(Selection):
    """Attention heads: the query rows and the output columns of each.

    Key and value rows are shared by several heads in grouped attention; they are left out.

    Args:
        heads: Head numbers by block number, for the first stack of blocks: ``{3: [0, 5]}``.

    See also: :class:`~lit_ft.core.selection.TopUnits`, which finds heads by score.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 2}))
        >>> Heads({0: [1]}).select(network)["transformer.h.0.attn.c_proj.weight"]
        tensor([[False, False, False, False],
                [False, False, False, False],
                [ True,  True,  True,  True],
                [ True,  True,  True,  True]])
    """

    def __init__(self, heads: dict[int, list[int]]) -> None:
        if not any(heads.values()):
            raise ConfigError("heads", heads, "numbers of heads by number of block, {block: [head, ...]}")
        self.heads = {int(block): list(numbers) for block, numbers in heads.items()}

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Select the rows and columns of whole heads."""
        units = head_units(index)
        chosen: dict[str, Tensor] = {}
        for block, numbers in self.heads.items():
            for number in numbers:
                if (block, number) not in units:
                    known = sorted({key[0] for key in units}), 1 + max((key[1] for key in units), default=-1)
                    raise ConfigError("heads", {block: number}, f"blocks {known[0]} with {known[1]} heads each")
                for name, part in units[block, number].items():
                    if name not in chosen:
                        chosen[name] = torch.zeros(index[name].parameter.shape, dtype=torch.bool)
                    mark(chosen[name], part)
        return dict(chosen)
