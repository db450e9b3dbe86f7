"""Pairwise losses against TRL 1.16 and against identities that follow from their definitions."""

import math

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.preference.paired import (
    APO,
    BCO,
    IPO,
    NCA,
    ORPO,
    SPPO,
    HingePreference,
    LogSigmoidPreference,
    Pairs,
    PreferenceLoss,
    RobustPreference,
    SimPO,
    bradley_terry,
)
from lit_ft.preference.unpaired import bco, kto

# Sums of log-probabilities and counts of the fixed batch under two random Llamas (seeds 0 and 1, 63 tokens, width 32,
# 2 layers); the losses below are what TRL 1.16.0 computed on it (DPOTrainer._compute_loss, eval mode, beta 0.1).
POLICY = [-16.868534088, -20.963764191, -29.442325592, -24.608287811, -20.838329315, -12.604761124]
REFERENCE = [-16.974540710, -21.129562378, -29.026947021, -25.318096161, -20.827169418, -12.376952171]
TOKENS = [4.0, 5.0, 7.0, 6.0, 5.0, 3.0]
TRL = [
    (LogSigmoidPreference(0.1), 0.7035670),
    (LogSigmoidPreference(0.1, length_normalize=True), 0.6938148),
    (HingePreference(0.1), 1.0204805),
    (IPO(0.1), 25.1360245),
    (IPO(0.1, length_normalize=False), 27.191736),  # by hand: TRL has the other form only
    (RobustPreference(0.1, 0.2), 0.7103938),
    (BCO(0.1), 1.3968540),
    (NCA(0.1), 1.3916622),
    (APO(0.1, "zero"), 1.0051173),
    (APO(0.1, "down"), 1.0039226),
    (SPPO(0.1), 52.3037539),
    (SimPO(2.0, 0.5), 1.0365291),  # trl.experimental.cpo, simpo_gamma 0.5
]
ALL = [loss for loss, _ in TRL] + [ORPO()]


def golden(grad: bool = False) -> Pairs:
    policy, reference, tokens = (torch.tensor(x, dtype=torch.float64) for x in (POLICY, REFERENCE, TOKENS))
    policy.requires_grad_(grad)
    return Pairs(policy[:3], policy[3:], tokens[:3], tokens[3:], reference[:3], reference[3:])


def pairs(chosen: float, rejected: float, first: float = 0.0, second: float = 0.0) -> Pairs:
    one = torch.ones(1, dtype=torch.float64)
    return Pairs(chosen * one, rejected * one, one, one, first * one, second * one)


@pytest.mark.parametrize(("loss", "value"), TRL, ids=lambda x: type(x).__name__ if not isinstance(x, float) else "")
def test_equals_trl(loss: PreferenceLoss, value: float) -> None:
    assert loss(golden()).mean().item() == pytest.approx(value, rel=3e-7, abs=3e-7)


def test_orpo_odds_equal_trl() -> None:
    batch = golden()
    supervised = -(batch.chosen / batch.chosen_tokens).mean()
    odds = ORPO(0.1)(batch).mean() - supervised
    assert odds.item() == pytest.approx(0.07183498, abs=2e-7)  # trl.experimental.orpo, beta 0.1


def test_values_at_the_reference() -> None:
    at = pairs(-5.0, -7.0, -5.0, -7.0)
    beta = 0.1
    expected = {
        LogSigmoidPreference(beta): math.log(2),
        RobustPreference(beta, 0.2): math.log(2),
        IPO(beta): 1 / (4 * beta**2),
        HingePreference(beta): 1.0,
        BCO(beta): 2 * math.log(2),
        NCA(beta): 2 * math.log(2),
        APO(beta): 1.0,
        SPPO(beta): 2 / (4 * beta**2),
    }
    for loss, value in expected.items():
        assert loss(at).item() == pytest.approx(value, abs=1e-12), type(loss).__name__


def test_cdpo_is_the_mean_over_flipped_labels_and_robust_undoes_it() -> None:
    batch, share = golden(), 0.2
    flipped = Pairs(
        batch.rejected,
        batch.chosen,
        batch.rejected_tokens,
        batch.chosen_tokens,
        batch.reference_rejected,
        batch.reference_chosen,
    )
    plain = LogSigmoidPreference(0.1)
    mixed = (1 - share) * plain(batch) + share * plain(flipped)
    torch.testing.assert_close(LogSigmoidPreference(0.1, share)(batch), mixed)
    robust = RobustPreference(0.1, share)
    torch.testing.assert_close((1 - share) * robust(batch) + share * robust(flipped), plain(batch))


def test_gradient_of_dpo_is_its_closed_form() -> None:
    batch = golden(grad=True)
    leaf = batch.chosen
    (gradient,) = torch.autograd.grad(LogSigmoidPreference(0.1)(batch).sum(), leaf)
    torch.testing.assert_close(gradient, -0.1 * torch.sigmoid(-0.1 * batch.margin().detach()))


@pytest.mark.parametrize("loss", ALL, ids=lambda x: type(x).__name__)
def test_rejected_gradient_never_raises_the_rejected_answer(loss: PreferenceLoss) -> None:
    batch = golden(grad=True)
    down = torch.autograd.grad(loss(batch).sum(), batch.rejected, retain_graph=True)[0]
    assert (down >= 0).all()  # descending lowers log pi(rejected), or leaves it
    assert (down > 0).any()


def test_orpo_by_brute_force_and_at_the_limits() -> None:
    p, q = 0.7, 0.2
    tokens = torch.tensor([3.0], dtype=torch.float64)
    logs = torch.tensor([[math.log(p)], [math.log(q)]], dtype=torch.float64)
    batch = Pairs(3 * logs[0], 3 * logs[1], tokens, tokens)
    ratio = (p / (1 - p)) / (q / (1 - q))
    expected = -math.log(p) - 0.3 * math.log(ratio / (1 + ratio))
    assert ORPO(0.3)(batch).item() == pytest.approx(expected, rel=1e-12)
    for value in (0.0, -1e-8, -200.0):
        edge = torch.tensor([value], requires_grad=True)
        (gradient,) = torch.autograd.grad(
            ORPO()(Pairs(edge, torch.tensor([-1.0]), torch.ones(1), torch.ones(1))).sum(), edge
        )
        assert torch.isfinite(gradient).all()


def test_reference_free_losses_ignore_the_reference() -> None:
    batch = golden()
    bare = Pairs(batch.chosen, batch.rejected, batch.chosen_tokens, batch.rejected_tokens)
    for loss in (SimPO(), ORPO()):
        assert not loss.needs_reference
        torch.testing.assert_close(loss(batch), loss(bare))


def test_kto_by_hand() -> None:
    ratios, wanted = torch.tensor([0.5, -0.3, 1.0]), torch.tensor([True, False, False])
    found = kto(ratios, wanted, torch.tensor(0.2), beta=0.5, weights=(1.0, 1.5))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = [1 - sigmoid(0.15), 1.5 * (1 - sigmoid(0.25)), 1.5 * (1 - sigmoid(-0.4))]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_bco_by_hand() -> None:
    """With no shift the two losses of a pair are the paired loss."""
    rewards, wanted = torch.tensor([0.5, -0.3]), torch.tensor([True, False])
    expected = [math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(-0.5))]
    torch.testing.assert_close(bco(rewards, wanted, torch.tensor(0.2)), torch.tensor(expected))
    pair = Pairs(rewards[:1], rewards[1:], torch.ones(1), torch.ones(1))
    torch.testing.assert_close(bco(rewards, wanted, torch.tensor(0.0)).sum(), BCO(1.0)(pair).sum())


def test_bradley_terry_swaps_to_the_complement() -> None:
    first, second = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    won, lost = bradley_terry(first, second), bradley_terry(second, first)
    torch.testing.assert_close((-won).exp() + (-lost).exp(), torch.ones(2))
    assert (bradley_terry(first, second, margin=1.0) > won).all()
    torch.testing.assert_close(won, LogSigmoidPreference(1.0)(Pairs(first, second, torch.ones(2), torch.ones(2))))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: LogSigmoidPreference(0.0), "beta"),
        (lambda: LogSigmoidPreference(0.1, 0.5), "label_smoothing"),
        (lambda: RobustPreference(0.1, 0.5), "label_smoothing"),
        (lambda: IPO(-1.0), "beta"),
        (lambda: SimPO(gamma=-0.1), "gamma"),
        (lambda: ORPO(0.0), "weight"),
        (lambda: APO(0.1, "up"), "anchor"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_refused(make: object, argument: str) -> None:
    with pytest.raises(ConfigError, match=argument):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("loss", [SimPO(), ORPO()], ids=lambda loss: type(loss).__name__)
def test_an_answer_of_no_weight_is_no_nan(loss: PreferenceLoss) -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    pairs = Pairs(zero, -one, zero, one)
    assert torch.stack(loss.rewards(pairs)).isfinite().all()
