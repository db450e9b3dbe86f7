"""Similarity of two networks' representations of the same rows."""

import torch
from torch import Tensor


def _centred(features: Tensor) -> Tensor:
    return features.double() - features.double().mean(0)


def linear_cka(a: Tensor, b: Tensor) -> float:
    r"""Linear centred kernel alignment :math:`\|B^T A\|_F^2 / (\|A^T A\|_F \|B^T B\|_F)` of centred features A, B.

    It lies in [0, 1], and is 1 if one is a rotation, scaling or shift of the other. It is 1 if both are constant, 0 if
    one is. Computed in float64, over rows or widths, whichever are fewer.

    Args:
        a: Shape (rows, width).
        b: Shape (rows, another width), of the same rows.

    See also: :func:`representational_similarity`, which compares distances.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
        >>> round(linear_cka(a, 5 * a.flip(1) + 1), 4)
        1.0
        >>> linear_cka(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
        0.0
    """
    a, b = _centred(a), _centred(b)
    if max(a.shape[1], b.shape[1]) <= len(a):
        shared, own = (b.T @ a).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    else:
        left, right = a @ a.T, b @ b.T
        shared, own = (left * right).sum(), left.norm() * right.norm()
    if own == 0:
        return float(not a.any() and not b.any())
    return float(shared / own)


def representational_similarity(a: Tensor, b: Tensor) -> float:
    r"""Pearson correlation of the distances :math:`1 - \cos(x_i, x_j)`, i < j, of the rows in a and in b.

    Args:
        a: Shape (rows, width), at least 3 rows.
        b: Shape (rows, another width), of the same rows.

    Returns:
        A number in [-1, 1], or 0 if all distances of one are equal.

    See also: :func:`linear_cka`.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
        >>> round(representational_similarity(a, 5 * a.flip(1)), 4)
        1.0
    """
    rows = torch.triu_indices(len(a), len(a), offset=1, device=a.device)
    x, y = (torch.nn.functional.normalize(z.double(), dim=1) for z in (a, b))
    return float(torch.corrcoef(torch.stack([1 - (z @ z.T)[rows[0], rows[1]] for z in (x, y)]))[0, 1].nan_to_num())
