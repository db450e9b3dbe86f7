"""The loss over tokens: means against loops, gradients against the plain form, Hessians against autograd."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.double_backward import differentiable_twice
from lit_ft.tokens import readout
from lit_ft.tokens.losses import Reduction, TokenLoss, document_numbers, log1mexp, shares, weighted_cross_entropy
from lit_ft.tokens.readout import Readout

ROWS, TOKENS, WIDTH, WORDS = 3, 7, 5, 11


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(ROWS, TOKENS, WIDTH, generator=generator, dtype=dtype)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=dtype)
    bias = torch.randn(WORDS, generator=generator, dtype=dtype)
    ids = torch.randint(0, WORDS, (ROWS, TOKENS), generator=generator)
    weights = torch.rand(ROWS, TOKENS, generator=generator) * (torch.rand(ROWS, TOKENS, generator=generator) > 0.4)
    weights[:, 0] = 0
    return states, weight, bias, ids, weights


def test_equals_the_loss_of_transformers() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    states, weight, bias, ids, weights = batch(torch.float32)
    logits = states @ weight.t() + bias
    labels = torch.where(weights > 0, ids, -100)
    ours = weighted_cross_entropy(logits, ids, (weights > 0).float())
    assert ours.item() == pytest.approx(ForCausalLMLoss(logits, labels, WORDS).item(), rel=1e-6)
    every = weighted_cross_entropy(logits, ids, torch.ones(ROWS, TOKENS))  # the first token is no target
    assert every.item() == pytest.approx(ForCausalLMLoss(logits, ids, WORDS).item(), rel=1e-6)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_four_means_against_loops() -> None:
    states, weight, bias, ids, weights = batch(torch.float32)
    weights[1] *= -1
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [2] * 7, [3] * 7])
    tasks = torch.tensor([[0, 0, 0, 2, 2, 2, 2], [2] * 7, [0] * 7])
    logits = states @ weight.t() + bias
    log_probs = F.log_softmax(logits, -1)
    token = [
        (int(documents[r, t]), int(tasks[r, t]), float(weights[r, t]), -float(log_probs[r, t - 1, ids[r, t]]))
        for r, t in itertools.product(range(ROWS), range(1, TOKENS))
        if weights[r, t] != 0
    ]

    def of(chosen: list[tuple[int, int, float, float]]) -> float:
        return sum(w * v for _, _, w, v in chosen) / sum(abs(w) for _, _, w, _ in chosen)

    def by(place: int, chosen: list[tuple[int, int, float, float]]) -> list[list[tuple[int, int, float, float]]]:
        return [[x for x in chosen if x[place] == k] for k in sorted({x[place] for x in chosen})]

    importance = torch.tensor([3.0, 100.0, 1.0])  # nobody is of the second task
    means = {
        "token": of(token),
        "sequence": mean([of(part) for part in by(0, token)]),
        "task": (3 * of(by(1, token)[0]) + of(by(1, token)[1])) / 4,
        "task_sequence": (3 * mean([of(p) for p in by(0, by(1, token)[0])])
                          + mean([of(p) for p in by(0, by(1, token)[1])])) / 4,
    }  # fmt: skip
    for reduction, expected in means.items():
        found = weighted_cross_entropy(logits, ids, weights, reduction, documents, tasks, importance)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(expected, rel=1e-5), reduction
    denominators = [shares(weights, r, documents, tasks, importance)[1].item() for r in means]  # type: ignore[arg-type]
    assert denominators == pytest.approx([weights.abs().sum().item(), len(by(0, token)), 4, 4])


def test_four_means_agree_where_lengths_and_tasks_are_equal() -> None:
    states, weight, _, ids, _ = batch(torch.float32)
    weights = torch.ones(ROWS, TOKENS)
    weights[:, 0] = 0
    found = [
        weighted_cross_entropy(states @ weight.t(), ids, weights, r, tasks=torch.arange(ROWS)).item()  # type: ignore[arg-type]
        for r in ("token", "sequence", "task", "task_sequence")
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


def test_means_over_micro_batches_add_up() -> None:
    """Weighted by their denominators, the means of parts give the mean of the whole."""
    states, weight, _, ids, weights = batch(torch.float32)
    logits = states @ weight.t()
    for reduction in ("token", "sequence"):
        whole = weighted_cross_entropy(logits, ids, weights, reduction)  # type: ignore[arg-type]
        parts = [
            weighted_cross_entropy(logits[i : i + 1], ids[i : i + 1], weights[i : i + 1], reduction) for i in range(3)
        ]  # type: ignore[arg-type]
        sizes = [shares(weights[i : i + 1], reduction)[1] for i in range(3)]  # type: ignore[arg-type]
        total = sum(p * s for p, s in zip(parts, sizes, strict=True)) / sum(sizes)
        assert total.item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [TokenLoss(), TokenLoss(label_smoothing=0.2), TokenLoss(focal=1.5), TokenLoss(unlikelihood=True),
     TokenLoss(label_smoothing=0.1, focal=2.0, unlikelihood=True)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("chunk", [WORDS, 4 * WORDS, 10**6])
def test_the_gradient_equals_that_of_the_plain_form(
    loss: TokenLoss, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout, "CHUNK", chunk)
    states, weight, bias, ids, weights = batch()
    weights[2] *= -1
    leaves = [t.requires_grad_() for t in (states, weight, bias)]
    coefficients, _ = shares(weights)
    formed = Readout(*leaves).loss(ids, coefficients, loss)
    plain = weighted_cross_entropy(states @ weight.t() + bias, ids, weights, loss=loss)
    assert formed.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(2.5 * value, leaves) for value in (formed, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert b.abs().max() > 1e-3


def test_only_what_is_needed_is_formed() -> None:
    states, weight, bias, ids, weights = batch()
    states.requires_grad_()
    Readout(states, weight, bias).loss(ids, shares(weights)[0]).backward()
    assert states.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not Readout(states, weight, bias).loss(ids, shares(weights)[0]).requires_grad


def test_the_hessian_is_that_of_the_dense_form() -> None:
    """Formed in the forward pass, double backward is refused; where it is announced, it is right."""
    states, weight, _, ids, weights = batch()
    coefficients, _ = shares(weights)
    flat = weight.flatten()

    def fused(w: Tensor) -> Tensor:
        return Readout(states, w.view_as(weight)).loss(ids, coefficients)

    def dense(w: Tensor) -> Tensor:
        log_probs = F.log_softmax(states @ w.view_as(weight).t(), -1)[:, :-1]
        chosen = log_probs.gather(2, ids[:, 1:, None])[..., 0]
        return -(coefficients[:, 1:] * chosen).sum()

    with differentiable_twice():
        ours = torch.autograd.functional.hessian(fused, flat)
    torch.testing.assert_close(ours, torch.autograd.functional.hessian(dense, flat), rtol=1e-4, atol=1e-6)
    leaf = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fused(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(gradient.sum(), leaf)


def test_log_probs_and_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "CHUNK", 3 * WORDS)
    states, weight, bias, ids, weights = batch()
    leaves = [t.requires_grad_() for t in (states, weight, bias)]
    found = Readout(*leaves).log_probs(ids, weights)
    plain = F.log_softmax(states @ weight.t() + bias, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    expected = F.pad(torch.where(weights[:, 1:] != 0, plain, 0.0), (1, 0)).float()
    torch.testing.assert_close(found, expected)
    outer = torch.randn(ROWS, TOKENS)
    ours, theirs = (torch.autograd.grad((v * outer).sum(), leaves, retain_graph=True) for v in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Readout(states @ weight.t() + bias).log_probs(ids, weights), expected)


def test_no_target_at_all_has_a_gradient_of_zero() -> None:
    states, weight, bias, ids, weights = batch(torch.float32)
    states.requires_grad_()
    value = Readout(states, weight, bias).loss(ids, shares(weights * 0)[0])
    value.backward()
    assert value.item() == 0
    assert states.grad.abs().max() == 0  # type: ignore[union-attr]


def test_the_softmax_is_in_float32_under_autocast() -> None:
    states, weight, bias, ids, weights = batch(torch.float32)
    leaves = [t.requires_grad_() for t in (states, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        value = Readout(*leaves).loss(ids, shares(weights)[0])
    assert value.dtype == torch.float32
    logits = (states.bfloat16() @ weight.bfloat16().t() + bias.bfloat16()).float()
    expected = weighted_cross_entropy(logits, ids, weights)
    assert value.item() == pytest.approx(expected.item(), rel=2e-3)
    value.backward()
    assert weight.grad.dtype == torch.float32  # type: ignore[union-attr]


def test_log_probs_are_made_again_in_the_type_they_were_made_in() -> None:
    """After autocast its type is forgotten: the backward pass must not take the default of the device."""
    states, weight, bias, ids, weights = batch(torch.float32)
    default = torch.get_autocast_dtype("cpu")
    other = torch.float16 if default is torch.bfloat16 else torch.bfloat16
    found, expected = ([t.clone().requires_grad_() for t in (states, weight, bias)] for _ in range(2))
    with torch.autocast("cpu", dtype=other):
        said = Readout(*found).log_probs(ids, weights)
    said.sum().backward()
    narrow = [leaf.to(other) for leaf in expected]
    Readout(*narrow).log_probs(ids, weights).sum().backward()
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.grad.to(other), two.grad.to(other))


@pytest.fixture
def bf16_true() -> Iterator[None]:
    """What ``precision: bf16-true`` sets while a step runs."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("reduction", ["token", "sequence", "task", "task_sequence"])
def test_sums_are_in_float32_where_the_default_is_bf16(bf16_true: None, reduction: Reduction) -> None:
    states, weight, bias, ids, weights = batch(torch.float32)
    tasks = torch.tensor([0, 1, 1])
    coefficients, total = shares(weights.bfloat16(), reduction, tasks=tasks)
    torch.set_default_dtype(torch.float32)
    expected = shares(weights.bfloat16().float(), reduction, tasks=tasks)
    losses = [Readout(states, weight, bias).loss(ids, expected[0])]
    torch.set_default_dtype(torch.bfloat16)
    assert torch.equal(coefficients, expected[0])
    assert torch.equal(total, expected[1])
    losses.append(Readout(states, weight, bias).loss(ids, coefficients))
    assert torch.equal(*losses)
    assert Readout(states, weight, bias).log_probs(ids, weights).dtype is torch.float32


def test_unlikelihood_is_finite_at_certainty() -> None:
    x = torch.tensor([0.0, -1e-9, -0.5, -1.0, -200.0], requires_grad=True)
    value = log1mexp(x)
    torch.testing.assert_close(value[2:], torch.log1p(-torch.exp(x[2:])))
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()  # type: ignore[union-attr]


def test_documents_from_positions() -> None:
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 0]])
    assert document_numbers(positions).tolist() == [[0, 0, 1, 1], [2, 2, 2, 3]]


def test_wrong_values() -> None:
    weights = torch.ones(2, 3)
    with pytest.raises(ConfigError, match="task_column"):
        shares(weights, "task")
    with pytest.raises(ConfigError, match="reduction"):
        shares(weights, "mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="label_smoothing"):
        TokenLoss(label_smoothing=1.0)
    with pytest.raises(ConfigError, match="focal"):
        TokenLoss(focal=-1.0)


def test_in_inference_mode() -> None:
    states, weight, bias, ids, weights = batch(torch.float32)
    weight.requires_grad_()
    loss = TokenLoss(label_smoothing=0.1)
    expected = Readout(states, weight, bias).loss(ids, shares(weights)[0], loss)
    with torch.inference_mode():
        assert Readout(states, weight, bias).loss(ids, shares(weights)[0], loss).item() == pytest.approx(
            expected.item()
        )
