"""CHES by its definition, and by what it foretells in the smallest model."""

import torch
from torch.nn import functional as F

from lit_ft.preference.ches import ChesScore, ches


def test_equals_the_sum_over_pairs_of_places_on_ragged_answers() -> None:
    hidden = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    spans = [(2, 5), (3, 7), (2, 4), (3, 5)]  # tokens of the answers: chosen, chosen, rejected, rejected
    weights = torch.zeros(4, 7)
    for row, (start, end) in enumerate(spans):
        weights[row, start:end] = 0.5
    for normalize in (False, True):
        expected = []
        for i in range(2):
            places = [range(spans[row][0] - 1, spans[row][1] - 1) for row in (i, i + 2)]
            cross = sum(hidden[i, k] @ hidden[i + 2, m] for k in places[0] for m in places[1])
            own = sum(hidden[i, k] @ hidden[i, m] for k in places[0] for m in places[0])
            sizes = [len(p) for p in places]
            expected.append(
                cross / (sizes[0] * sizes[1] if normalize else 1) - own / (sizes[0] ** 2 if normalize else 1)
            )
        torch.testing.assert_close(ches(hidden, weights, normalize), torch.stack(expected))
        metric = ChesScore(normalize)
        metric.update(hidden, weights)
        torch.testing.assert_close(metric.compute(), torch.stack(expected).mean())


def test_high_score_displaces_to_the_opposite_answer() -> None:
    """One hidden vector, fixed unembeddings: No against Never gives the probability to Yes; No against Yes does not."""
    words = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])  # No, Never, Yes, other

    def train(rejected: int) -> float:
        h = torch.tensor([0.1, 0.1], requires_grad=True)
        for _ in range(2000):
            p = F.log_softmax(words @ h, 0)
            (gradient,) = torch.autograd.grad(-F.logsigmoid(0.5 * (p[0] - p[rejected])), h)
            h = (h - 0.5 * gradient).detach().requires_grad_()
        return F.softmax(words @ h, 0)[2].item()

    assert train(rejected=1) > 0.95
    assert train(rejected=2) < 0.01
