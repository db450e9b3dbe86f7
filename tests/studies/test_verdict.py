"""The language of claims and the bootstrap behind a verdict, against values worked out by hand."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from lit_ft.core.errors import ConfigError
from lit_ft.studies.expression import check, evaluate, parse
from lit_ft.studies.report import by_arm
from lit_ft.studies.study import Study, parse_seeds
from lit_ft.studies.verdict import FAILS, HOLDS, NOTHING, OPEN, headline, interval, judge, overall

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


def test_differences_are_paired_by_seed() -> None:
    """The spread over seeds is far larger than the effect, but every seed shows the same effect."""
    paired = judge("large.loss - small.loss > 0.4", VALUES, 3)
    assert paired.verdict == HOLDS
    assert paired.share == 1.0
    assert paired.sides["large.loss - small.loss"] == pytest.approx([0.5, 0.5, 0.5])
    shuffled = {"small": VALUES["small"], "large": {"loss": np.array([3.5, 1.5, 2.5])}}
    assert judge("large.loss - small.loss > 0.4", shuffled, 3).verdict == OPEN


def test_an_interval_across_the_threshold_is_not_decided() -> None:
    assert judge("small.loss > 1.9", VALUES, 3).verdict == OPEN
    assert judge("small.loss > 3.1", VALUES, 3).verdict == FAILS
    assert judge("small.loss > 0.9", VALUES, 3).verdict == HOLDS


def test_the_verdict_is_what_the_interval_shows() -> None:
    """No reader should meet "holds" beside an interval that crosses the threshold."""
    draw, found = np.random.default_rng(0), set()
    for _ in range(40):
        values = {"a": {"x": draw.normal(1.0, 1.0, 3)}, "b": {"x": np.zeros(3)}}
        judged = judge("a.x - b.x > 0", values, 3)
        _, low, high = judged.sides["a.x - b.x"]
        assert judged.verdict == (HOLDS if low > 0 else FAILS if high < 0 else OPEN)
        found.add(judged.verdict)
    assert {HOLDS, OPEN} <= found


def test_interval_of_the_bootstrap_is_that_of_all_resamples() -> None:
    """27 resamples of three seeds can be written down."""
    draws = [np.mean([a, b, c]) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3)]
    _, low, high = judge("small.loss > 0", VALUES, 3).sides["small.loss"]
    assert low == pytest.approx(np.quantile(draws, 0.025), abs=0.34)
    assert high == pytest.approx(np.quantile(draws, 0.975), abs=0.34)


def test_one_seed_decides_by_its_value_and_says_so() -> None:
    values = {"a": {"x": np.array([2.0])}, "b": {"x": np.array([3.0])}}
    judged = judge("a.x < b.x", values, 1)
    assert judged.verdict == HOLDS
    assert judged.numbers() == "2 (one seed) against 3 (one seed)"


def test_a_diverged_run_does_not_hold() -> None:
    values = {"a": {"x": np.array([np.nan, np.nan])}}
    for text in ("a.x < 1", "a.x > 1", "not a.x < 1", "not decreasing(2, a.x, 1)", "a.x / a.x < 5"):
        check(text, values, ["x"])
        assert judge(text, values, 2).verdict == FAILS, text


def test_a_division_by_zero_is_infinite_and_not_an_error_after_hours_of_runs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge("small.loss.mean / 0 > 1", VALUES, 3).verdict == HOLDS
        assert judge("1 / 0 < 1", VALUES, 3).verdict == FAILS
        assert judge("0 ** -1 < 1", VALUES, 3).verdict == FAILS
        assert judge("ratio(small.loss, small.time - 2) < 1", VALUES, 3).verdict == FAILS


def test_bars_are_the_intervals_that_verdicts_go_by() -> None:
    result = {"values": {arm: {n: v.tolist() for n, v in own.items()} for arm, own in VALUES.items()}}
    (panel, _) = by_arm(result).axes
    bars = [container.lines[2][0].get_segments()[0][:, 0] for container in panel.containers]
    for arm, drawn in zip(VALUES, bars, strict=True):
        _, *ends = judge(f"{arm}.loss > 0", VALUES, 3).sides[f"{arm}.loss"]
        assert drawn.tolist() == pytest.approx(ends)
    assert interval([2.0]) == ()


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [1 / 3] * 7, [np.nan, 1.0], [np.inf, np.inf], [1e300] * 3])
def test_bars_are_drawn_of_equal_and_of_diverged_runs(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_arm({"values": {"a": {"x": values}}}).axes[0].containers


def test_overall() -> None:
    good, bad, unclear = (judge(f"small.loss > {bound}", VALUES, 3) for bound in (0.9, 3.1, 1.9))
    assert overall([good, good]) == HOLDS
    assert overall([good, unclear]) == OPEN
    assert overall([good, unclear, bad]) == FAILS
    assert headline([good, unclear, bad]).startswith("`small.loss > 3.1`: 2 [")
    assert overall([]) == NOTHING


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("arms: [1\n")
    with pytest.raises(yaml.YAMLError, match=r"study\.yaml"):
        Study.load(tmp_path / "study.yaml")


def test_seeds_are_whole_numbers() -> None:
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    for text in ("", "1,,2", "3-1", "-1", "1.5", "0-2-4", "\u00b2"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(text)
