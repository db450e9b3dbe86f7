"""A network with several copies of its feed-forward layers; each row uses one of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.embedding.sentence_encoder import SentenceEncoder


class Route:
    """Which expert each row of the next forward pass uses; shared by all layers of a network.

    See also: :class:`RoutedLinear`.

    Example:
        >>> route = Route()
        >>> with route.to(torch.tensor([0, 1])):
        ...     route.experts
        tensor([0, 1])
    """

    def __init__(self) -> None:
        self.experts: Tensor | None = None

    @contextmanager
    def to(self, experts: Tensor) -> Iterator[None]:
        """Within this context, row i uses expert ``experts[i]``."""
        before, self.experts = self.experts, experts
        try:
            yield
        finally:
            self.experts = before


class RoutedLinear(nn.Module):
    """Copies of a linear layer; each row of a batch uses the copy of its expert.

    Args:
        layer: The layer.
        experts: Number of copies.
        route: Holds the expert of each row.

    Example:
        >>> route = Route()
        >>> layer = RoutedLinear(nn.Linear(1, 1, bias=False), experts=2, route=route)
        >>> for number, expert in enumerate(layer.experts):
        ...     expert.weight.data = torch.tensor([[10.0**number]])
        >>> with route.to(torch.tensor([1, 0])):
        ...     layer(torch.ones(2, 1)).detach()
        tensor([[10.],
                [ 1.]])
    """

    def __init__(self, layer: nn.Linear, experts: int, route: Route) -> None:
        super().__init__()
        self.experts = nn.ModuleList(copy.deepcopy(layer) for _ in range(experts))
        self.route = route

    def forward(self, hidden: Tensor) -> Tensor:
        """As the layer; the first dimension indexes the rows."""
        chosen = self.route.experts
        if chosen is None or len(chosen) != len(hidden):
            given = "none" if chosen is None else f"{len(chosen)} for {len(hidden)} rows"
            raise ConfigError(
                "experts", given, "an expert for each row: the forward pass runs inside Route.to(experts)"
            )
        used = chosen.unique().tolist()
        if len(used) == 1:
            return self.experts[used[0]](hidden)
        parts = {number: (chosen == number).nonzero()[:, 0] for number in used}
        found = torch.cat([self.experts[number](hidden[rows]) for number, rows in parts.items()])
        return found[torch.cat(list(parts.values())).argsort()]


def expand_to_experts(network: nn.Module, experts: int, route: Route) -> int:
    """Replace every linear layer of the feed-forward blocks by copies of itself, in place.

    Before training the outputs are those of the network, for every route.

    Args:
        network: A network; its blocks are found by structure, see ``ParameterIndex``.
        experts: Number of copies, at least 1.
        route: The route of every layer.

    Returns:
        Number of layers that were replaced.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> network, route = MLP((4,), 2, depth=2), Route()
        >>> expand_to_experts(network, experts=3, route=route)
        2
        >>> len(network.blocks[0].linear.experts)
        3
    """
    if experts < 1:
        raise ConfigError("experts", experts, "at least 1")
    found = [
        entry.module
        for entry in ParameterIndex(network).entries.values()
        if entry.role.startswith("feed_forward") and not entry.bias and isinstance(entry.module, nn.Linear)
    ]
    if not found:
        raise ConfigError(
            "network",
            type(network).__name__,
            "a network with linear feed-forward layers in its blocks, of which it has two or more",
        )
    owners = {id(layer) for layer in found}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in owners and isinstance(child, nn.Linear):
                setattr(parent, name, RoutedLinear(child, experts, route))
    return len(found)


class RoutedEncoder(SentenceEncoder):
    """A sentence encoder with experts.

    Args:
        encoder: A sentence encoder, whose parts are used.
        experts: Number of experts.

    See also: :class:`Route`, :class:`~lit_ft.methods.ExpertEmbedding`.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.embedding.sentence_encoder import sentence_encoder
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "vocab_size": 10}
        >>> encoder = RoutedEncoder(sentence_encoder(Network(config=config)), experts=2)
        >>> ids = torch.tensor([[1, 2], [3, 4]])
        >>> with encoder.route.to(torch.tensor([0, 1])):
        ...     encoder(ids, torch.ones_like(ids)).shape
        torch.Size([2, 8])
    """

    def __init__(self, encoder: SentenceEncoder, experts: int) -> None:
        super().__init__(encoder.encoder, encoder.pooling, encoder.normalize)
        self.route, self.experts = Route(), experts
        expand_to_experts(self.encoder, experts, self.route)

    def dense(self, expert: int) -> SentenceEncoder:
        """A copy with the layers of one expert, which needs no route."""
        plain = copy.deepcopy(self.encoder)
        for parent in list(plain.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, RoutedLinear):
                    setattr(parent, name, child.experts[expert])
        return SentenceEncoder(plain, self.pooling, self.normalize).train(self.training)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a sentence-transformers folder for each expert, ``expert_0`` and so on."""
        for expert in range(self.experts):
            place = Path(folder) / f"expert_{expert}"
            place.mkdir(parents=True, exist_ok=True)
            self.dense(expert).save_pretrained(place)
