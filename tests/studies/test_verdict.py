"""The language of claims and the intervals behind a verdict, against scipy and values worked out by hand."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from lit_ft.core.errors import ConfigError
from lit_ft.studies.atoms import atoms
from lit_ft.studies.expression import check, evaluate, parse
from lit_ft.studies.interval import half_width, seeds_for, t_interval, t_quantile
from lit_ft.studies.report import by_arm
from lit_ft.studies.study import Study, parse_seeds
from lit_ft.studies.verdict import FAILS, HOLDS, OPEN, UNTESTABLE, ClaimVerdict, Judged, judge_claim, plain

VALUES = {
    "small": {"loss": np.array([1.0, 2.0, 3.0]), "time": np.array([2.0, 2.0, 2.0])},
    "large": {"loss": np.array([1.5, 2.5, 3.5]), "time": np.array([4.0, 8.0, 3.0])},
    "huge": {"loss": np.array([9.0, 9.0, 9.0]), "time": np.array([1.0, 1.0, 1.0])},
}

TRUTHS = {
    "small.loss.mean in [1.9, 2.1]": True,
    "small.loss in [2.1, 3]": False,
    "small.loss < large.loss < huge.loss": True,
    "large.loss - small.loss in [0.5, 0.5]": True,
    "ratio(large.time, small.time) in [2.4, 2.6]": True,  # (2 + 4 + 1.5) / 3, not 5 / 2 by chance of the means
    "large.time / small.time > 2.6": False,
    "sd(small.loss) in [1, 1]": True,
    "increasing(small.loss, large.loss, huge.loss)": True,
    "decreasing(small.loss, large.loss, huge.loss)": False,
    "not small.loss > 5 and (small.loss.max >= 3 or small.loss < 0)": True,
    "abs(-small.loss) * 2 ** 2 > 7.9": True,
    "log(small.time) < 0.7": True,
}


@pytest.mark.parametrize("text", list(TRUTHS))
def test_expressions(text: str) -> None:
    check(text, VALUES, VALUES["small"])
    assert bool(evaluate(parse(text), VALUES)) is TRUTHS[text]


WRONG = {
    "smal.loss > 1": "did you mean 'small'",
    "small.los > 1": "loss, time.*did you mean 'loss'",
    "small.loss.men > 1": "did you mean 'mean'",
    "small > 1": "arm.measure",
    "maen(small.loss) > 1": "function 'maen'.*did you mean 'mean'",
    "ratio(small.loss) > 1": "2 values for ratio",
    "sd(small.loss, 1) > 1": "1 values for sd",
    "small.loss in [1, 2, 3]": "interval of two ends",
    "small.loss == 1": "comparisons",
    "small.loss % 2 > 1": "arithmetic",
    "small.loss + 1": "a comparison",
    "small.loss > 'a'": "numbers",
    "__import__('os').system('true') > 1": "function",
    "[x for x in small.loss] > 1": "numbers",
    "small.loss > ": "an expression",
    "not small.loss": "a comparison",
    "small.loss > 1 and large.loss": "a comparison",
    "small.loss in [3, -1]": "first end is not above",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_mistakes_are_found_before_anything_runs(text: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]):
        check(text, VALUES, VALUES["small"])


FIVE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


def one(text: str, **arms: Any) -> Judged:
    """The only statement of a claim."""
    values = {arm: {"x": np.asarray(numbers, dtype=float)} for arm, numbers in arms.items()}
    (found,) = judge_claim("c", [text], [], True, values).judged
    return found


def test_quantiles_are_those_of_scipy() -> None:
    for freedom in (1, 2, 3, 4, 7, 11, 40, 1000):
        for share in (0.95, 0.975, 0.995, 0.9995):
            assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7)
    found, expected = t_interval(FIVE, 0.9), stats.t.interval(0.9, 4, FIVE.mean(), stats.sem(FIVE))
    assert (found.low, found.high) == pytest.approx(expected)


NOISE: dict[str, tuple[Any, float, tuple[float, float]]] = {  # noise, its mean, the coverage that is stated for it
    "normal": (lambda draw, shape: draw.normal(size=shape), 0.0, (0.93, 0.97)),
    "t of 3 degrees": (lambda draw, shape: draw.standard_t(3, size=shape), 0.0, (0.93, 0.97)),
    "differences of exponentials": (
        lambda draw, shape: draw.exponential(size=shape) - draw.exponential(size=shape), 0.0, (0.93, 0.97)),
    "uniform": (lambda draw, shape: draw.uniform(-1, 1, size=shape), 0.0, (0.92, 0.97)),
    "exponential, skewed to one side": (lambda draw, shape: draw.exponential(size=shape), 1.0, (0.87, 0.93)),
    "0 or 1": (lambda draw, shape: draw.integers(0, 2, size=shape) * 1.0, 0.5, (0.74, 0.97)),
}  # fmt: skip


@pytest.mark.parametrize("seeds", [3, 5, 8, 12])
@pytest.mark.parametrize("noise", list(NOISE))
def test_intervals_cover_as_often_as_they_say(noise: str, seeds: int) -> None:
    """Of 20,000 intervals; the bootstrap that was here before covered 75 % with three seeds of normal noise."""
    sample, mean, (least, most) = NOISE[noise]
    drawn = sample(np.random.default_rng(seeds), (20_000, seeds))
    half = t_quantile(0.975, seeds - 1) * drawn.std(1, ddof=1) / np.sqrt(seeds)
    covered = float((np.abs(drawn.mean(1) - mean) <= half).mean())
    assert least < covered < most
    for row in drawn[:3]:
        found = t_interval(row)
        assert (found.high - found.low) / 2 == pytest.approx(
            half[: len(drawn)][np.flatnonzero((drawn == row).all(1))[0]]
        )


def test_differences_are_paired_by_seed() -> None:
    """The spread over seeds is far larger than the effect, but every seed shows the same effect."""
    found = one("b.x - a.x > 0.4", a=FIVE, b=FIVE + 0.5)
    assert found.verdict == HOLDS
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert one("b.x - a.x > 0.4", a=FIVE, b=np.roll(FIVE, 2) + 0.5).verdict == OPEN


REGIONS = [  # five seeds of mean 3; the interval is [1.04, 4.96]
    ("a.x > 1", HOLDS), ("a.x > 2", OPEN), ("a.x > 5", FAILS), ("a.x < 5", HOLDS), ("a.x < 1", FAILS),
    ("1 < a.x", HOLDS), ("5 < a.x", FAILS), ("a.x in [1, 5]", HOLDS), ("a.x in [2, 5]", OPEN),
    ("a.x in [5, 9]", FAILS), ("a.x in [-9, 1]", FAILS), ("abs(a.x) < 5", HOLDS), ("abs(a.x) < 4", OPEN),
    ("abs(a.x) < 1", FAILS), ("abs(a.x) > 1", HOLDS), ("abs(a.x) > 5", FAILS), ("abs(a.x - 3) < 1", OPEN),
    ("a.x.mean > 1", HOLDS), ("mean(a.x) < 1", FAILS), ("2 * a.x + 1 > 3", HOLDS), ("-a.x < -1", HOLDS),
]  # fmt: skip


@pytest.mark.parametrize(("text", "verdict"), REGIONS)
def test_the_whole_interval_decides(text: str, verdict: str) -> None:
    assert one(text, a=FIVE).verdict == verdict


def test_ratios_are_judged_on_paired_logarithms() -> None:
    a, b = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([2.0, 4.4, 8.0, 15.0, 33.0])
    logs = np.log(b) - np.log(a)
    interval = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    for text in ("ratio(b.x, a.x) < 2.2", "b.x / a.x < 2.2"):
        found = one(text, a=a, b=b)
        assert found.verdict == HOLDS
        assert (found.mean, found.low, found.high) == pytest.approx((np.exp(logs.mean()), *np.exp(interval)))
    assert one("ratio(b.x, a.x) in [1.8, 2.2]", a=a, b=b).verdict == HOLDS
    assert one("ratio(b.x, a.x) < 1.5", a=a, b=b).verdict == FAILS
    assert one("ratio(b.x, a.x) < 2", a=a, b=b - b).verdict == OPEN, "no ratio of nothing"


def test_expectations_of_one_claim_share_its_level() -> None:
    """The interval that is shown is the one that decides; increasing() is each neighbouring difference."""
    values = {name: {"x": FIVE / 5 + shift} for name, shift in (("a", 0.0), ("b", 1.0), ("c", 9.0))}
    claim = judge_claim("c", ["increasing(a.x, b.x, c.x)", "a.x < b.x and abs(a.x) < 9"], [], True, values)
    assert [found.text for found in claim.judged] == ["a.x - b.x < 0", "b.x - c.x < 0", "a.x - b.x < 0", "abs(a.x) < 9"]
    assert {found.level for found in claim.judged} == {1 - 0.05 / 4}
    last = claim.judged[-1]
    assert (last.low, last.high) == pytest.approx(stats.t.interval(1 - 0.05 / 4, 4, 0.6, stats.sem(FIVE / 5)))
    assert "at 98.8 %" in last.numbers()
    assert claim.verdict == HOLDS
    near = {"a": {"x": FIVE}, "b": {"x": FIVE - np.array([0.5, 1.5, 1.0, 2.0, 0.2])}}
    assert judge_claim("c", ["a.x > b.x"], [], True, near).verdict == HOLDS
    assert judge_claim("c", ["a.x > b.x"] * 20, [], True, near).verdict == OPEN


def test_fewer_than_five_seeds_decide_nothing() -> None:
    found = one("a.x < 9", a=FIVE[:4])
    assert (found.verdict, found.wanted) == (OPEN, 5)
    assert one("a.x < 9", a=FIVE[:1]).numbers() == "1 (one seed)"


def test_how_many_seeds_it_would_take() -> None:
    found = one("a.x > 2.5", a=FIVE)
    assert found.verdict == OPEN
    assert found.wanted == seeds_for(0.5, float(FIVE.std(ddof=1)), 0.95)
    assert (
        half_width(FIVE.std(ddof=1), found.wanted, 0.95) < 0.5 <= half_width(FIVE.std(ddof=1), found.wanted - 1, 0.95)
    )
    assert f"{found.wanted} seeds might decide" in found.numbers()
    assert one("a.x > 3", a=FIVE).wanted is None, "no number of seeds, at a difference of nothing"


def test_a_claim_whose_precondition_fails_is_not_testable() -> None:
    values = {"base": {"x": FIVE}, "new": {"x": FIVE + 1}}
    claim = judge_claim("c", ["new.x > base.x"], ["base.x > 3.5"], True, values)
    assert claim.verdict == UNTESTABLE
    assert claim.headline() == "`base.x > 3.5`: 3 [1.04, 4.96]"
    met = judge_claim("c", ["new.x > base.x"], ["base.x > 2.5"], True, values)
    assert met.verdict == HOLDS, "its interval crosses 2.5, its mean decides"
    assert ClaimVerdict.of(plain([claim])[0]) == claim


def test_a_diverged_seed_decides_nothing_and_is_counted() -> None:
    broken = FIVE.copy()
    broken[2] = np.nan
    values = {"a": {"x": FIVE}, "b": {"x": broken}}
    claim = judge_claim("c", ["a.x > 0", "b.x < 9"], [], True, values)
    assert (claim.verdict, claim.diverged) == (OPEN, {"b": 1})
    assert claim.headline() == "1 diverged in b"
    assert judge_claim("c", ["a.x > 0"], [], True, values).verdict == HOLDS, "in another arm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one("b.x / (a.x - 3) < 1", a=FIVE, b=FIVE).verdict == OPEN


UNDECIDABLE = {
    "not a.x > 1": "comparisons joined by `and`",
    "a.x > 1 or b.x > 1": "comparisons joined by `and`",
    "sd(a.x) < 1": "no interval over seeds is known for sd",
    "a.x.max > 1": "no interval over seeds is known for max",
    "a.x - median(b.x) > 1": "median",
    "ratio(a.x, b.x) < ratio(b.x, a.x)": "a number beside the ratio",
    "ratio(a.x, b.x) > 0": "a ratio beside a number above 0",
    "abs(a.x) < 0": "beside a number above 0",
    "a.x in [b.x, 3]": "an interval of two numbers",
    "1 < 2": "arm.measure on one side",
}


@pytest.mark.parametrize("text", list(UNDECIDABLE))
def test_what_no_interval_decides_is_refused_when_it_is_read(text: str) -> None:
    check(text, ["a", "b"], ["x"])
    with pytest.raises(ConfigError, match=re.escape(UNDECIDABLE[text])):
        atoms(text)


def test_bars_are_the_intervals_of_single_arms() -> None:
    result = {"values": {arm: {n: v.tolist() for n, v in own.items()} for arm, own in VALUES.items()}}
    (panel, _) = by_arm(result).axes
    bars = [container.lines[2][0].get_segments()[0][:, 0] for container in panel.containers]
    for arm, drawn in zip(VALUES, bars, strict=True):
        found = t_interval(VALUES[arm]["loss"])
        assert drawn.tolist() == pytest.approx([found.low, found.high])


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [1 / 3] * 7, [np.nan, 1.0], [np.inf, np.inf], [1e300] * 3])
def test_bars_are_drawn_of_equal_and_of_diverged_runs(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_arm({"values": {"a": {"x": values}}}).axes[0].containers


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("arms: [1\n")
    with pytest.raises(yaml.YAMLError, match=r"study\.yaml"):
        Study.load(tmp_path / "study.yaml")


def test_seeds_are_whole_numbers() -> None:
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    assert [parse_seeds(text) for text in ("2", "2,", "2-2", "1,3")] == [[0, 1], [2], [2], [1, 3]]
    for text in ("", "1,,2", "3-1", "-1", "1.5", "0-2-4", "\u00b2"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(text)
