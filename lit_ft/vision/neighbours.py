"""The leave-one-out nearest-neighbour loss."""

import torch
from torch import Tensor


def leave_one_out(
    queries: Tensor, keys: Tensor, same_class: Tensor, same_row: Tensor, k: int, temperature: float
) -> Tensor:
    r"""Minus the log of the share of a row's neighbourhood that has its label.

    .. math:: -\log \Big[\sum_{j \in N_k(i), y_j = y_i} s_{ij} \Big/ \sum_{j \in N_k(i)} s_{ij}\Big], \quad
        s_{ij} = e^{z_i \cdot z_j / \tau}

    where N holds the k nearest keys except those of the row itself. If none of them has the row's label, the nearest
    key that does is added, so that the loss is finite and has a gradient.

    Args:
        queries: z, of length 1, shape (rows, width).
        keys: Shape (keys, width), of length 1.
        same_class: Whether a key has the label of a query, shape (rows, keys).
        same_row: Whether a key is a query's own, shape (rows, keys).
        k: Number of neighbours, at least 1.
        temperature: tau, above 0.

    Returns:
        Losses of shape (rows,), 0 where no other key has the label.

    Example:
        >>> keys, same_class = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, False]])
        >>> none = torch.zeros(1, 2, dtype=torch.bool)
        >>> leave_one_out(torch.tensor([[1.0, 0.0]]), keys, same_class, none, k=2, temperature=1.0)  # -log(e / (e + 1))
        tensor([0.3133])
    """
    if not len(keys):  # before the first row is remembered
        return queries.sum(1) * 0.0
    with torch.autocast(queries.device.type, enabled=False):  # bf16 cannot tell near keys apart
        scores = queries @ keys.T / temperature
    scores = scores.masked_fill(same_row, -torch.inf)
    positive = same_class & ~same_row
    valid = positive.any(1)
    near = torch.zeros_like(positive)
    near.scatter_(1, scores.topk(min(k, scores.shape[1]), dim=1).indices, True)
    near &= ~same_row
    best = scores.detach().masked_fill(~positive, -torch.inf).argmax(1)
    lonely = valid & ~(near & positive).any(1)
    near[lonely, best[lonely]] = True
    whole = scores.masked_fill(~near, -torch.inf)[valid].logsumexp(1)
    own = scores.masked_fill(~(near & positive), -torch.inf)[valid].logsumexp(1)
    losses = queries.new_zeros(len(queries))
    return losses.masked_scatter(valid, whole - own)
