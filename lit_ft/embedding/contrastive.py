"""Losses over vectors of related texts."""

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
        negatives: Shape (rows, negatives, width), hard negatives of each anchor; None without any.
        keys: Shape (rows, 2 + negatives), integers: equal texts have equal keys. Order: anchor, positive, negatives.
            None turns the search for repeated texts off.
        labels: Shape (rows,), the class of each anchor and its positive, for mining; None without classes.

    Example:
        >>> vectors = Vectors(anchors=torch.eye(2), positives=torch.eye(2), negatives=-torch.eye(2)[:, None])
        >>> triplet_accuracy(vectors)  # each positive equals its anchor, each negative is opposite to it
        tensor(1.)
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor | None = None
    keys: Tensor | None = None
    labels: Tensor | None = None


class EmbeddingLoss(ABC):
    """A loss for each anchor.

    See also: :class:`InBatchContrastive`, :class:`Triplet`, :class:`Matryoshka`.

    Example:
        >>> class Pull(EmbeddingLoss):
        ...     def __call__(self, vectors):
        ...         return 1 - F.cosine_similarity(vectors.anchors, vectors.positives)
        >>> Pull()(Vectors(torch.eye(2), torch.eye(2).flip(0)))
        tensor([1., 1.])
    """

    @abstractmethod
    def __call__(self, vectors: Vectors) -> Tensor:
        """Losses of shape (rows,)."""


class InBatchContrastive(EmbeddingLoss):
    r"""Classifies the positive of each anchor among all positives and hard negatives of the batch (InfoNCE, MNR).

    .. math:: -\log\frac{e^{s\cos(a_i,p_i)}}{\sum_{c\in C_i}e^{s\cos(a_i,c)}}

    where C holds the positives and negatives of all rows and of all processes.

    Args:
        scale: s, the inverse of the temperature, above 0. Paper (E41): 20; echo embeddings: 50.
        symmetric: Also classify the anchor of each positive among all anchors, and take the mean of both losses.
        mask_duplicates: Leave false negatives out of C: texts equal to the anchor or to its positive, and the positive
            of an equal anchor. Otherwise a repeated text is pushed away from itself.
        gather: Take candidates from all processes.

    Note: gradient accumulation does not add candidates; a larger batch in chunks does (``SentenceEmbedding``).

    Source: M. Henderson et al., Efficient Natural Language Response Suggestion, 2017, arXiv:1705.00652; as used in
    L. Hallee et al., Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings, 2024 (E41). Equals
    ``MultipleNegativesRankingLoss`` of sentence-transformers 6.2 without the mask.

    See also: :class:`Triplet`, :func:`duplicates`, which finds the false negatives.

    Example:
        >>> InBatchContrastive(scale=1.0)(Vectors(torch.eye(2), torch.eye(2)))  # log(1 + 1 / e)
        tensor([0.3133, 0.3133])
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
    """False negatives: candidates equal to an anchor or to its positive, and positives of equal anchors.

    Args:
        keys: Shape (rows, columns): anchor, positive, negatives.
        all_keys: The keys of all processes, shape (all rows, columns).
        own: The row of each anchor among all rows; its positive is never masked.
        candidates: Number of candidates: all positives, then, if included, all negatives.

    Returns:
        Shape (rows, candidates), bool.

    Example:
        >>> keys = torch.tensor([[0, 1], [0, 2]])  # two rows with the same anchor
        >>> duplicates(keys, keys, own=torch.tensor([0, 1]), candidates=2)
        tensor([[False,  True],
                [ True, False]])
    """
    anchor, positive = keys[:, :1], keys[:, 1:2]
    texts = torch.cat([all_keys[:, 1], all_keys[:, 2:].flatten()])[:candidates]
    same = (texts == anchor) | (texts == positive)
    same[:, : len(all_keys)] |= all_keys[:, 0] == anchor
    same[torch.arange(len(keys), device=keys.device), own] = False
    return same


def comparisons(vectors: Vectors) -> tuple[Tensor, Tensor]:
    """Cosines of each anchor with the positives and negatives of its batch, without false negatives.

    Returns:
        The cosines, and 1 for an anchor with its own positive, else 0; both of shape (comparisons,).

    Example:
        >>> comparisons(Vectors(torch.eye(2), torch.eye(2)))
        (tensor([1., 0., 0., 1.]), tensor([1, 0, 0, 1]))
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
    r"""Puts the positive nearer than the negative by a margin: :math:`\max(0,d(a,p)-d(a,n)+m)`.

    Args:
        margin: m, above 0, in units of the distance.
        distance: ``cosine`` (1 - cos), ``euclidean`` or ``manhattan``.
        mining: ``none`` uses the given negatives (the mean over several). ``batch_hard`` takes for every
            anchor the farthest text of its class and the nearest of another one in the batch; ``batch_all`` the mean
            over all triplets of the batch that violate the margin. Both need labels.

    Source: the loss of T-VEC (E16, 2025, arXiv:2504.16460); F. Schroff et al., FaceNet, 2015, arXiv:1503.03832;
    A. Hermans et al., In Defense of the Triplet Loss, 2017, arXiv:1703.07737 (mining). With ``none`` it equals
    ``TripletLoss`` of sentence-transformers 6.2 (whose default is Euclidean with margin 5, which vectors of length 1
    cannot reach).

    See also: :class:`InBatchContrastive`, :func:`batch_hard`, :func:`batch_all`.

    Example:
        >>> texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]])
        >>> Triplet(margin=0.5)(Vectors(texts[:1], texts[1:2], negatives=texts[2:, None]))  # 0 - 0.2 + 0.5
        tensor([0.3000])
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
    """Share of negatives that are farther from their anchor than its positive is, by cosine; ties count half.

    Example:
        >>> anchors, negatives = torch.eye(2), torch.eye(2)[:, None]
        >>> triplet_accuracy(Vectors(anchors, positives=anchors, negatives=-negatives))
        tensor(1.)
        >>> triplet_accuracy(Vectors(anchors, positives=anchors, negatives=negatives))
        tensor(0.5000)
    """
    assert vectors.negatives is not None
    near = F.cosine_similarity(vectors.anchors, vectors.positives, dim=-1).unsqueeze(1)
    far = F.cosine_similarity(vectors.anchors.unsqueeze(1), vectors.negatives, dim=-1)
    return ((near > far).float() + (near == far).float() / 2).mean()


def distances(first: Tensor, second: Tensor, distance: str) -> Tensor:
    """Distance over the last dimension; the others broadcast. Its gradient is finite for equal vectors.

    Example:
        >>> first, second = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0])
        >>> distances(first, second, "euclidean"), distances(first, second, "manhattan")
        (tensor(5.), tensor(7.))
    """
    if distance == "cosine":
        return 1 - F.cosine_similarity(first, second, dim=-1)
    gap = first - second
    if distance == "manhattan":
        return gap.abs().sum(-1)
    squared = gap.square().sum(-1)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def batch_hard(between: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Triplet loss of every text with the farthest text of its class and the nearest of another; 0 if one is missing.

    Args:
        between: Distances, shape (texts, texts).
        labels: Shape (texts,).
        margin: Margin, in units of the distance.

    See also: :func:`batch_all`.

    Example:
        >>> places = torch.tensor([0.0, 1.0, 3.0])
        >>> batch_hard((places[:, None] - places).abs(), torch.tensor([0, 0, 1]), margin=2.0)
        tensor([0., 1., 0.])
    """
    same, itself = labels[:, None] == labels, torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = same & ~itself, ~same
    far = between.masked_fill(~positive, -torch.inf).amax(1)
    near = between.masked_fill(~negative, torch.inf).amin(1)
    usable = positive.any(1) & negative.any(1)
    return torch.where(usable, torch.relu(torch.where(usable, far - near, 0.0) + margin), 0.0)


def batch_all(between: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over the triplets of every text with a loss above 0; 0 without any. Cubic in the number of texts.

    Args:
        between: Distances, shape (texts, texts).
        labels: Shape (texts,).
        margin: Margin, in units of the distance.

    See also: :func:`batch_hard`.

    Example:
        >>> places = torch.tensor([0.0, 1.0, 3.0])
        >>> batch_all((places[:, None] - places).abs(), torch.tensor([0, 0, 1]), margin=2.0)
        tensor([0., 1., 0.])
    """
    same, itself = labels[:, None] == labels, torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    valid = (same & ~itself).unsqueeze(2) & (~same).unsqueeze(1)
    losses = torch.relu(between.unsqueeze(2) - between.unsqueeze(1) + margin) * valid
    return losses.sum((1, 2)) / (losses > 0).sum((1, 2)).clamp(min=1)


class Matryoshka(EmbeddingLoss):
    r"""The same loss on the first d numbers of each vector, for several d, so that vectors can be truncated.

    .. math:: \sum_d w_d\,\ell(v_{1:d})\,/\sum_d w_d

    Args:
        loss: The loss on each length.
        dims: Lengths, in numbers; the largest should be the full width.
        weights: One for each length; 1 each by default, as in the paper.

    Source: A. Kusupati et al., Matryoshka Representation Learning, 2022, arXiv:2205.13147. Deviation: the weights are
    normalised to sum to 1, so that the learning rate need not change.

    See also: :class:`InBatchContrastive`, :class:`Triplet`.

    Example:
        >>> vectors = Vectors(anchors=torch.eye(2), positives=torch.eye(2))
        >>> Matryoshka(InBatchContrastive(scale=1.0), dims=[2])(vectors)
        tensor([0.3133, 0.3133])
        >>> Matryoshka(InBatchContrastive(scale=1.0), dims=[1, 2])(vectors)  # second row: (log 2 + 0.3133) / 2
        tensor([0.3133, 0.5032])
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
