"""Losses over vectors of texts that belong together."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import NonNegativeFloat, PositiveFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.gathering import gather_rows


@dataclass
class Vectors:
    """Vectors of a batch of related texts.

    Args:
        anchors: Shape (rows, width).
        positives: Shape (rows, width); row i belongs to anchor i.
        negatives: Shape (rows, negatives, width), hard negatives of each anchor; None where there are none.
        keys: Shape (rows, 2 + negatives), whole numbers: equal texts have equal keys. Order: anchor, positive,
            negatives. None where texts are not compared.
        labels: Shape (rows,), the class of each anchor and its positive, for mining; None where there are none.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor | None = None
    keys: Tensor | None = None
    labels: Tensor | None = None


class EmbeddingLoss(ABC):
    """A loss for each anchor."""

    @abstractmethod
    def __call__(self, vectors: Vectors) -> Tensor:
        """Losses of shape (rows,)."""


class InBatchContrastive(EmbeddingLoss):
    r"""Each anchor finds its positive among all positives and hard negatives of the batch (InfoNCE, MNR).

    .. math:: -\log\frac{e^{s\cos(a_i,p_i)}}{\sum_{c\in C_i}e^{s\cos(a_i,c)}}

    where C holds the positives and negatives of all rows and of all processes.

    Args:
        scale: s, the inverse of the temperature, above 0. Paper (E41): 20; echo embeddings: 50.
        symmetric: Also let each positive find its anchor among all anchors, and take the mean of both.
        mask_duplicates: Leave out of C what is no negative: a text equal to the anchor or to its positive, and the
            positive of an equal anchor. Without it a repeated text is pushed away from itself.
        gather: Candidates from all processes.

    Note: gradient accumulation does not add candidates; a larger batch in chunks does (``SentenceEmbedding``).

    Source: M. Henderson et al., Efficient Natural Language Response Suggestion, 2017, arXiv:1705.00652; as used in
    L. Hallee et al., Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings, 2024 (E41). Equals
    ``MultipleNegativesRankingLoss`` of sentence-transformers 6.2 without the mask.
    """

    def __init__(
        self, scale: PositiveFloat = 20.0, symmetric: bool = False, mask_duplicates: bool = True, gather: bool = True
    ) -> None:
        super().__init__()
        checked(locals())
        self.scale, self.symmetric, self.mask_duplicates, self.gather = scale, symmetric, mask_duplicates, gather

    def __call__(self, vectors: Vectors) -> Tensor:
        """Losses of shape (rows,)."""
        rows, device = len(vectors.anchors), vectors.anchors.device
        anchors, positives = F.normalize(vectors.anchors, dim=-1), F.normalize(vectors.positives, dim=-1)
        keys = vectors.keys if self.mask_duplicates else None
        all_positives, start = self._all(positives)
        all_keys = None if keys is None else self._all(keys)[0]
        own = torch.arange(start, start + rows, device=device)
        candidates = all_positives
        if vectors.negatives is not None:
            negatives, _ = self._all(F.normalize(vectors.negatives, dim=-1))
            candidates = torch.cat([all_positives, negatives.flatten(0, 1)])
        scores = self.scale * anchors @ candidates.T
        if keys is not None and all_keys is not None:
            scores = scores.masked_fill(duplicates(keys, all_keys, own, candidates.shape[0]), -torch.inf)
        loss = F.cross_entropy(scores, own, reduction="none")
        if self.symmetric:
            all_anchors, _ = self._all(anchors)
            scores = self.scale * positives @ all_anchors.T
            if keys is not None and all_keys is not None:
                swapped, every = keys[:, [1, 0]], all_keys[:, [1, 0]]
                scores = scores.masked_fill(duplicates(swapped, every, own, len(all_anchors)), -torch.inf)
            loss = (loss + F.cross_entropy(scores, own, reduction="none")) / 2
        return loss

    def _all(self, rows: Tensor) -> tuple[Tensor, int]:
        return gather_rows(rows) if self.gather else (rows, 0)


def duplicates(keys: Tensor, all_keys: Tensor, own: Tensor, candidates: int) -> Tensor:
    """Which candidates are no negatives of an anchor, because their text is its own, its positive's, or that of a twin.

    Args:
        keys: Shape (rows, columns): anchor, positive, negatives.
        all_keys: The same of all processes, shape (all rows, columns).
        own: The row of each anchor among all rows; its positive is never masked.
        candidates: All positives, and behind them, where wanted, all negatives.

    Returns:
        Shape (rows, candidates), bool.
    """
    anchor, positive = keys[:, :1], keys[:, 1:2]
    texts = torch.cat([all_keys[:, 1], all_keys[:, 2:].flatten()])[:candidates]
    same = (texts == anchor) | (texts == positive)
    same[:, : len(all_keys)] |= all_keys[:, 0] == anchor
    same[torch.arange(len(keys), device=keys.device), own] = False
    return same


def comparisons(vectors: Vectors) -> tuple[Tensor, Tensor]:
    """Cosines of anchors with the positives and negatives of their batch that are no repetition of their own texts.

    Returns:
        The cosines, and whether each is that of an anchor with its own positive (1 or 0); both of shape (comparisons,).
    """
    texts = (
        vectors.positives
        if vectors.negatives is None
        else torch.cat([vectors.positives, vectors.negatives.flatten(0, 1)])
    )
    cosines = F.normalize(vectors.anchors, dim=-1) @ F.normalize(texts, dim=-1).T
    own = torch.arange(len(cosines), device=cosines.device)
    together = F.one_hot(own, len(texts))
    if vectors.keys is None:
        return cosines.flatten(), together.flatten()
    kept = ~duplicates(vectors.keys, vectors.keys, own, len(texts))
    return cosines[kept], together[kept]


class Triplet(EmbeddingLoss):
    r"""The positive is nearer than the negative by a margin: :math:`\max(0,d(a,p)-d(a,n)+m)`.

    Args:
        margin: m, above 0, in units of the distance.
        distance: ``cosine`` (1 - cos), ``euclidean`` or ``manhattan``.
        mining: ``none`` uses the given negatives (the mean over them, if several). ``batch_hard`` takes for every
            anchor the farthest text of its class and the nearest of another one in the batch; ``batch_all`` the mean
            over all triplets of the batch that violate the margin. Both need labels.

    Source: the loss of T-VEC (E16, 2025, arXiv:2504.16460); F. Schroff et al., FaceNet, 2015, arXiv:1503.03832;
    A. Hermans et al., In Defense of the Triplet Loss, 2017, arXiv:1703.07737 (mining). With ``none`` it equals
    ``TripletLoss`` of sentence-transformers 6.2 (whose default is Euclidean with margin 5, out of reach for vectors of
    length 1).
    """

    def __init__(
        self,
        margin: PositiveFloat = 0.5,
        distance: Literal["cosine", "euclidean", "manhattan"] = "cosine",
        mining: Literal["none", "batch_hard", "batch_all"] = "none",
    ) -> None:
        super().__init__()
        checked(locals())
        self.margin, self.distance, self.mining = margin, distance, mining

    def __call__(self, vectors: Vectors) -> Tensor:
        """Losses of shape (rows,)."""
        if self.mining == "none":
            if vectors.negatives is None:
                raise ConfigError("mining", "none", "rows with a negative; without one, batch_hard or batch_all")
            near = distances(vectors.anchors, vectors.positives, self.distance)
            far = distances(vectors.anchors.unsqueeze(1), vectors.negatives, self.distance)
            return torch.relu(near.unsqueeze(1) - far + self.margin).mean(1)
        if vectors.labels is None:
            raise ConfigError("mining", self.mining, "rows with a label")
        texts, labels = torch.cat([vectors.anchors, vectors.positives]), vectors.labels.repeat(2)
        between = distances(texts.unsqueeze(1), texts.unsqueeze(0), self.distance)
        mine = batch_hard if self.mining == "batch_hard" else batch_all
        return mine(between, labels, self.margin)[: len(vectors.anchors)]


def triplet_accuracy(vectors: Vectors) -> Tensor:
    """Share of an anchor's own negatives that are farther away than its positive, by cosine; ties count half."""
    assert vectors.negatives is not None
    near = F.cosine_similarity(vectors.anchors, vectors.positives, dim=-1).unsqueeze(1)
    far = F.cosine_similarity(vectors.anchors.unsqueeze(1), vectors.negatives, dim=-1)
    return ((near > far).float() + (near == far).float() / 2).mean()


def distances(first: Tensor, second: Tensor, distance: str) -> Tensor:
    """Distance over the last dimension; the others broadcast. Its gradient is finite for equal vectors."""
    if distance == "cosine":
        return 1 - F.cosine_similarity(first, second, dim=-1)
    gap = first - second
    if distance == "manhattan":
        return gap.abs().sum(-1)
    squared = gap.square().sum(-1)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def batch_hard(between: Tensor, labels: Tensor, margin: float) -> Tensor:
    """For every text the farthest of its class against the nearest of another; 0 where there is none.

    Args:
        between: Distances, shape (texts, texts).
        labels: Shape (texts,).
        margin: Margin.
    """
    same, itself = labels[:, None] == labels, torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = same & ~itself, ~same
    far = between.masked_fill(~positive, -torch.inf).amax(1)
    near = between.masked_fill(~negative, torch.inf).amin(1)
    usable = positive.any(1) & negative.any(1)
    return torch.where(usable, torch.relu(torch.where(usable, far - near, 0.0) + margin), 0.0)


def batch_all(between: Tensor, labels: Tensor, margin: float) -> Tensor:
    """For every text the mean over its triplets with a loss above 0; 0 where there is none. Cubic in the texts."""
    same, itself = labels[:, None] == labels, torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    valid = (same & ~itself).unsqueeze(2) & (~same).unsqueeze(1)
    losses = torch.relu(between.unsqueeze(2) - between.unsqueeze(1) + margin) * valid
    return losses.sum((1, 2)) / (losses > 0).sum((1, 2)).clamp(min=1)


class Matryoshka(EmbeddingLoss):
    r"""The same loss on the first d numbers of each vector, for several d: vectors that can be cut short.

    .. math:: \sum_d w_d\,\ell(v_{1:d})\,/\sum_d w_d

    Args:
        loss: The loss on each length.
        dims: Lengths, in numbers; the largest should be the full width.
        weights: One for each length; 1 each by default, as in the paper.

    Source: A. Kusupati et al., Matryoshka Representation Learning, 2022, arXiv:2205.13147. Deviation: the weights are
    normalised to sum to 1, so that the learning rate need not change.
    """

    def __init__(
        self, loss: EmbeddingLoss, dims: list[PositiveInt], weights: list[NonNegativeFloat] | None = None
    ) -> None:
        super().__init__()
        checked(locals())
        if not dims:
            raise ConfigError("dims", dims, "at least one length")
        weights = [1.0] * len(dims) if weights is None else list(weights)
        if len(weights) != len(dims) or not sum(weights) > 0:
            raise ConfigError("weights", weights, f"{len(dims)} numbers of 0 or more, not all 0")
        self.loss, self.dims, self.weights = loss, list(dims), weights

    def __call__(self, vectors: Vectors) -> Tensor:
        """Losses of shape (rows,)."""
        width = vectors.anchors.shape[-1]
        if max(self.dims) > width:
            raise ConfigError("dims", self.dims, f"at most {width}, the width of the vectors")
        total = vectors.anchors.new_zeros(len(vectors.anchors))
        for dim, weight in zip(self.dims, self.weights, strict=True):
            total = total + weight * self.loss(_cut(vectors, dim))
        return total / sum(self.weights)


def _cut(vectors: Vectors, dim: int) -> Vectors:
    negatives = None if vectors.negatives is None else vectors.negatives[..., :dim]
    return replace(
        vectors, anchors=vectors.anchors[..., :dim], positives=vectors.positives[..., :dim], negatives=negatives
    )
