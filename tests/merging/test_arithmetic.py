"""What merges compute, against closed forms and PEFT's own functions."""

import math

import pytest
import torch
from peft.utils import merge_utils

from lit_ft.core.errors import ConfigError
from lit_ft.merging import arithmetic
from lit_ft.merging.by_depth import SLERP, LayerSchedule, LayerSwap
from lit_ft.merging.by_entry import DARE, TIES, Breadcrumbs, ModelStock
from lit_ft.merging.merge import LinearMerge, TaskArithmetic
from lit_ft.merging.places import TensorPlace, places


def drawn(number: int, shape: tuple[int, ...] = (40, 30), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(number)]


def test_a_linear_merge_is_that_of_mergekit_bit_by_bit() -> None:
    """Each product is added with one rounding, as mergekit 0.1.5 does."""
    inputs, weights = drawn(3), [0.2, 0.3, 0.5]
    expected = torch.zeros_like(inputs[0])
    for tensor, weight in zip(inputs, torch.tensor(weights), strict=True):
        expected.addcmul_(tensor, weight)
    assert torch.equal(LinearMerge(weights).combine(TensorPlace("w"), None, inputs), expected)


def test_the_same_input_twice_counts_twice() -> None:
    one, other = drawn(2)
    twice = LinearMerge().combine(TensorPlace("w"), None, [one, one, other])
    assert torch.allclose(twice, (2 * one + other) / 3)


@pytest.mark.parametrize("hot", [0, 1, 2])
def test_onehot_weights_give_that_input_and_zeros_the_base_bit_by_bit(hot: int) -> None:
    base, *inputs = drawn(4)
    weights = [float(number == hot) for number in range(3)]
    assert torch.equal(TaskArithmetic(weights).combine(TensorPlace("w"), base, inputs), inputs[hot])
    assert torch.equal(TaskArithmetic([0, 0, 0]).combine(TensorPlace("w"), base, inputs), base)


def test_a_layer_schedule_is_exact_at_its_ends_and_linear_in_between() -> None:
    base, tuned = (tensor.double() for tensor in drawn(2))
    for block in range(5):
        place = TensorPlace(f"h.{block}.w", "h", block, 5)
        assert torch.equal(LayerSchedule(1, 0).combine(place, base, [tuned]), tuned)
        assert torch.equal(LayerSchedule(0, 0).combine(place, base, [tuned]), base)
        change = LayerSchedule(0.2).combine(place, base, [tuned]) - base
        assert (change.norm() / (tuned - base).norm()).item() == pytest.approx(0.2 + 0.8 * block / 4)
    outside = LayerSchedule(0.2, outside={"head.*": 1})
    assert torch.equal(outside.combine(TensorPlace("head.weight"), base, [tuned]), tuned)  # scale 1
    assert (outside.combine(TensorPlace("norm.weight"), base, [tuned]) - base).norm() / (tuned - base).norm() < 0.21


@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("sign", ["mass", "count"])
def test_ties_is_that_of_peft(density: float, sign: str) -> None:
    deltas = drawn(3)
    method = {"mass": "total", "count": "frequency"}[sign]
    expected = merge_utils.ties(deltas, torch.ones(3), density, majority_sign_method=method)
    found = arithmetic.ties(deltas, [1, 1, 1], density, sign)  # type: ignore[arg-type]
    kept = torch.stack([torch.where(arithmetic.largest(delta, density), delta, 0) for delta in deltas])
    voted = kept.sign().sum(0) != 0  # where the votes cancel, plus is elected here, and nothing there
    assert torch.allclose(found[voted], expected[voted], atol=1e-6)
    if sign == "mass":
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("density", "kept"), [(0.0, 0), (0.001, 1), (0.2, 200), (0.25, 250), (1.0, 1000)])
def test_trimming_keeps_exactly_k_and_the_first_of_equals(density: float, kept: int) -> None:
    mask = arithmetic.largest(torch.ones(1000), density)
    assert mask.sum() == kept
    assert mask[:kept].all()


def test_sparse_deltas_keep_no_zeros() -> None:
    delta = torch.zeros(1000)
    delta[:5] = 1
    assert arithmetic.largest(delta, 0.2).sum() == 5


def test_ties_does_not_depend_on_the_order_of_the_inputs() -> None:
    deltas, weights = drawn(4), [1.0, 0.5, 2.0, 0.3]
    found = arithmetic.ties(deltas, weights, 0.3)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        assert torch.equal(arithmetic.ties([deltas[i] for i in order], [weights[i] for i in order], 0.3), found)


def test_dare_keeps_the_mean_and_draws_alike_in_any_order() -> None:
    base, one, other = drawn(3, (500, 200))
    merge = DARE(density=0.25, seed=3)
    found = merge.combine(TensorPlace("w"), base, [one, other])
    assert torch.allclose(merge.combine(TensorPlace("w"), base, [other, one]), found, atol=1e-6)
    masks = [merge.combine(TensorPlace("w"), base, [tensor]) != base for tensor in (one, other)]
    assert 0.24 < masks[0].float().mean() < 0.26
    assert 0.05 < (masks[0] & masks[1]).float().mean() < 0.075  # independent, not the same one
    shift = merge.combine(TensorPlace("w"), torch.zeros_like(one), [torch.ones_like(one)])
    assert shift.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(merge.combine(TensorPlace("v"), base, [one]), merge.combine(TensorPlace("w"), base, [one]))
    assert not torch.equal(DARE(density=0.25, seed=4).combine(TensorPlace("w"), base, [one]), masks[0])
    twice = merge.combine(TensorPlace("w"), torch.zeros_like(one), [one, one])
    assert 0.40 < (twice != 0).float().mean() < 0.47  # 1 - 0.75 ** 2: the second draw is another one


def test_slerp_has_the_inputs_at_its_ends_and_the_length_between() -> None:
    one, other = drawn(2)
    assert torch.equal(arithmetic.slerp(one, other, 0), one)
    assert torch.equal(arithmetic.slerp(one, other, 1), other)
    unit = [tensor / tensor.norm() for tensor in (one, other)]
    assert arithmetic.slerp(*unit, 0.3).norm().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(arithmetic.slerp(one, one * 1.5, 0.5), one * 1.25)  # parallel
    assert torch.allclose(arithmetic.slerp(one, -one, 0.25), one * 0.5)  # opposite
    assert torch.equal(arithmetic.slerp(torch.zeros(3), torch.zeros(3), 0.5), torch.zeros(3))
    assert arithmetic.slerp(one, torch.zeros_like(one), 0.5).isfinite().all()


def test_slerp_over_the_depth() -> None:
    merge = SLERP([0, 0.5, 1], outside=0.25)
    assert [merge.at(TensorPlace("w", "h", block, 5)) for block in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert merge.at(TensorPlace("norm")) == 0.25
    assert SLERP([0, 0.5, 1]).at(TensorPlace("norm")) == 0.5


def test_a_swap_takes_whole_blocks_and_means_at_the_borders() -> None:
    one, other = drawn(2)
    merge = LayerSwap({"0-1": 1, "5": 1}, outside={"embed.*": 1}, transition=1)
    found = [merge.combine(TensorPlace("w", "h", block, 6), None, [one, other]) for block in range(6)]
    mean = (one + other) / 2
    for tensor, expected in zip(found, (other, mean, mean, one, mean, mean), strict=True):
        assert torch.allclose(tensor, expected)
    assert torch.equal(found[0], other)
    assert torch.equal(merge.combine(TensorPlace("embed.weight"), None, [one, other]), other)
    assert torch.equal(merge.combine(TensorPlace("norm.weight"), None, [one, other]), one)


def test_breadcrumbs_and_model_stock() -> None:
    base, tuned = torch.zeros(100), torch.arange(1.0, 101)
    kept = Breadcrumbs(density=0.5, outliers=0.1).combine(TensorPlace("w"), base, [tuned])
    assert torch.equal(kept.nonzero().flatten(), torch.arange(40, 90))
    inputs = [torch.tensor([1.0, 0.0]), torch.tensor([math.cos(1.0), math.sin(1.0)])]
    share = 2 * math.cos(1.0) / (1 + math.cos(1.0))
    mean = (inputs[0] + inputs[1]) / 2
    assert torch.allclose(ModelStock().combine(TensorPlace("w"), torch.zeros(2), inputs), share * mean)


def test_depth_is_counted_in_the_own_stack() -> None:
    stacks = [
        (f"{side}.block.{n}", m)
        for side, count in (("encoder", 2), ("decoder", 3))
        for n in range(count)
        for m in (0, 1)
    ]
    names = ["shared.weight", *(f"{block}.layer.{part}.w.weight" for block, part in stacks)]
    found = places(names)
    assert found["encoder.block.1.layer.0.w.weight"] == TensorPlace(
        "encoder.block.1.layer.0.w.weight", "encoder.block", 1, 2
    )
    assert found["decoder.block.1.layer.1.w.weight"].depth == 0.5
    assert found["shared.weight"].depth is None
    assert all(place.block is None for place in places(["0.weight", "2.weight", "conv.0.weight"]).values())
    gaps = places(["body.0.conv.weight", "body.2.conv.weight"])  # what stands between has no weights: no repeated block
    assert all(place.block is None for place in gaps.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TIES(density=1.5), "TIES.density: given 1.5; allowed: a finite number, 0 or more and 1 or less"),
        (lambda: DARE(density=0), "DARE.density: given 0"),
        (lambda: SLERP(2), "SLERP.t: given 2"),
        (lambda: LayerSwap({"3-1": 0}), "LayerSwap.layers: given '3-1'"),
        (
            lambda: LinearMerge([1.0]).combine(TensorPlace("w"), None, drawn(2)),
            "LinearMerge.weight: given [1.0]; allowed: 2",
        ),
        (lambda: Breadcrumbs(density=0.9, outliers=0.2), "Breadcrumbs.density: given 0.9; allowed: at most 0.8"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
