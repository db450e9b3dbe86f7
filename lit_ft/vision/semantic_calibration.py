"""Aligning the features of one network with those of another."""

import torch
from torch import Tensor
from torch.nn import functional as F


def rotation(source: Tensor, target: Tensor) -> Tensor:
    r"""The rotation R that best maps centred source rows to target rows: :math:`\min_R \sum_i |R x_i - y_i|^2`.

    Proper: its determinant is 1. Apply it as ``rows @ R.T``.

    Args:
        source: x, shape (rows, width).
        target: y, shape (rows, width).

    Example:
        >>> source = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> target = source.roll(-1, dims=0)  # a quarter turn
        >>> torch.allclose(source @ rotation(source, target).T, target, atol=1e-6)
        True
    """
    x, y = source.double() - source.double().mean(0), target.double() - target.double().mean(0)
    left, _, right = torch.linalg.svd(y.T @ x)
    signs = torch.ones(len(left), dtype=x.dtype, device=x.device)
    signs[-1] = torch.sign(torch.linalg.det(left @ right))
    return (left * signs @ right).to(source)


def class_centres(rows: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Means of the rows of each class, weighted by the softmax of ``scores`` within it; zeros for absent classes.

    Args:
        rows: Shape (rows, width).
        labels: Shape (rows,).
        scores: How typical a row is of each class, shape (rows, classes).

    Example:
        >>> rows, labels = torch.tensor([[0.0, 2.0], [4.0, 2.0]]), torch.tensor([1, 1])
        >>> class_centres(rows, labels, scores=torch.zeros(2, 3))
        tensor([[0., 0.],
                [2., 2.],
                [0., 0.]])
    """
    member = F.one_hot(labels, scores.shape[1]).bool()
    weights = scores.masked_fill(~member, -torch.inf).softmax(0)
    return weights.nan_to_num(0).T @ rows


def calibrated(pre: Tensor, own: Tensor, labels: Tensor, class_weights: Tensor, turn: Tensor) -> Tensor:
    r"""Features of the pre-trained network, aligned with those of the fine-tuned one.

    Rows are normalised to length 1 and rotated. Each class is shifted so that its mean lies at the centre of the
    fine-tuned features of that class, weighted by the softmax of their cosine with the class's weight. Then rows are
    normalised to length 1 again, and scaled to the mean length of the fine-tuned ones.

    Args:
        pre: Features of the pre-trained network, shape (rows, width).
        own: Features of the same rows in the network that is fine-tuned.
        labels: Shape (rows,).
        class_weights: Weight of the head, shape (classes, width).
        turn: Rotation from :func:`rotation`, shape (width, width).

    See also: :func:`rotation`.

    Example:
        >>> pre, own = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> calibrated(pre, own, labels=torch.tensor([0, 1]), class_weights=own, turn=torch.eye(2))  # one row a class
        tensor([[0., 2.],
                [2., 0.]])
    """
    turned, unit = F.normalize(pre, dim=-1) @ turn.T, F.normalize(own, dim=-1)
    typical = unit @ F.normalize(class_weights, dim=-1).T
    shift = class_centres(unit, labels, typical) - class_centres(turned, labels, torch.zeros_like(typical))
    return F.normalize(turned + shift[labels], dim=-1) * own.norm(dim=-1).mean()
