import pytest
import torch
from torch.nn import functional as F

from lit_ft.vision.semantic_calibration import calibrated, class_centres, rotation


def rows(n=60, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def planted(width=5, proper=True):
    q, _ = torch.linalg.qr(rows(width, width, seed=1)[0])
    q[:, 0] *= torch.sign(torch.linalg.det(q)) * (1 if proper else -1)
    return q


def test_a_planted_rotation_is_found():
    x, _ = rows()
    q = planted()
    torch.testing.assert_close(rotation(x, x @ q.T), q)
    torch.testing.assert_close(rotation(x, x @ q.T + 3), q)  # shifts do not matter
    torch.testing.assert_close(rotation(x, 4 * x @ q.T), q)


def test_a_mirror_image_is_not_followed():
    x, _ = rows()
    found = rotation(x, x @ planted(proper=False).T)
    assert torch.linalg.det(found).item() == pytest.approx(1)
    torch.testing.assert_close(found @ found.T, torch.eye(5, dtype=x.dtype))


def test_drift_that_is_a_rotation_is_undone_up_to_length():
    """If f_d is f_p turned, calibrated features are those of f_d: equal weights, so that centres are means."""
    pre, labels = rows()
    own = F.normalize(pre, dim=-1) @ planted().T * 2.5
    no_weights = torch.zeros(3, 5, dtype=pre.dtype)
    turn = rotation(F.normalize(pre, dim=-1), F.normalize(own, dim=-1))
    torch.testing.assert_close(calibrated(pre, own, labels, no_weights, turn), own)
    unturned = calibrated(pre, own, labels, no_weights, torch.eye(5, dtype=pre.dtype))
    assert (unturned - own).abs().max() > 0.5


def test_classes_move_to_their_centres():
    pre, labels = rows()
    own, _ = rows(seed=3)
    weights, _ = rows(3, seed=4)
    unit = F.normalize(own, dim=-1)
    scores = unit @ F.normalize(weights, dim=-1).T
    centres = class_centres(unit, labels, scores)
    for c in range(3):
        mine = [i for i in range(60) if labels[i] == c]
        w = torch.tensor([float(scores[i, c].exp()) for i in mine], dtype=own.dtype)
        torch.testing.assert_close(centres[c], (w[:, None] * unit[mine]).sum(0) / w.sum())
    found = calibrated(pre, own, labels, weights, torch.eye(5, dtype=pre.dtype))
    source = F.normalize(pre, dim=-1)
    for c in range(3):  # before they are brought to one length again
        moved = source[labels == c] - source[labels == c].mean(0) + centres[c]
        torch.testing.assert_close(found[labels == c], F.normalize(moved, dim=-1) * own.norm(dim=-1).mean())


def test_a_class_without_rows_and_one_with_a_single_row():
    own, _ = rows(4)
    labels = torch.tensor([0, 0, 0, 2])
    found = calibrated(own, own, labels, torch.randn(4, 5, dtype=own.dtype), torch.eye(5, dtype=own.dtype))
    assert found.isfinite().all()
    torch.testing.assert_close(F.normalize(found[3], dim=0), F.normalize(own[3], dim=0))
