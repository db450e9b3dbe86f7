"""Ranges and words in annotations: what they refuse, for YAML and Python alike."""

import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from lit_ft.core.checks import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    Range,
    checked,
)
from lit_ft.core.errors import ConfigError


class Base:
    def __init__(self, low: NonNegativeInt = 0) -> None:
        super().__init__()
        checked(locals())


class Takes(Base):
    def __init__(
        self,
        count: PositiveInt | None = None,
        rate: PositiveFloat = 0.1,
        length: PositiveFloat | None = None,
        share: ClosedUnitInterval = 0.5,
        inner: OpenUnitInterval = 0.5,
        decay: NonNegativeFloat = 0.0,
        word: Literal["mean", "sum"] = "mean",
        many: list[ClosedUnitInterval] | ClosedUnitInterval = 0.5,
        by_name: dict[str, PositiveFloat] | None = None,
        odd: Annotated[int, Range(low=3, high=9)] = 3,
        anything: Any = None,
        later: "NotKnownHere | None" = None,  # type: ignore[name-defined]  # noqa: F821
        **given: Any,
    ) -> None:
        super().__init__(**given)
        checked(locals())


GOOD = [
    {"count": 1}, {"count": None}, {"count": np.int64(4)}, {"rate": 3}, {"share": 0}, {"share": 1.0}, {"inner": 0.5},
    {"decay": 0}, {"word": "sum"}, {"many": [0, 1, 0.5]}, {"many": 1}, {"by_name": {"a": 2.0}}, {"odd": 9},
    {"anything": object()}, {"low": 0}, {"length": 2.0},
]  # fmt: skip
BAD = [
    ("count", 0, "a whole number, 1 or more, or null"), ("count", 1.5, "a whole number"), ("count", True, "whole"),
    ("count", "3", "whole"), ("rate", 0.0, "above 0"), ("rate", math.nan, "above 0"), ("share", 1.1, "0 or more and 1"),
    ("share", -0.1, "1 or less"), ("share", None, "0 or more"), ("inner", 1, "above 0 and below 1"),
    ("inner", 0, "below 1"), ("decay", -1e-9, "0 or more"), ("word", "max", "mean or sum"), ("many", [2], "list of"),
    ("many", "all", "1 or less"), ("by_name", {"a": 0}, "mapping"), ("odd", 10, "3 or more and 9 or less"),
    ("length", math.inf, "a finite number, above 0, or null"), ("rate", math.inf, "finite"),
]  # fmt: skip


@pytest.mark.parametrize("given", GOOD, ids=lambda given: next(iter(given)))
def test_what_is_allowed(given: dict[str, Any]) -> None:
    Takes(**given)


@pytest.mark.parametrize(("name", "value", "allowed"), BAD, ids=lambda value: str(value)[:20])
def test_what_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed) as caught:
        Takes(**{name: value})
    assert caught.value.argument == name
    assert caught.value.owner == "Takes"
    assert caught.value.given is value


def test_a_base_checks_its_own_arguments() -> None:
    with pytest.raises(ConfigError, match=r"Takes\.low: given -1"):
        Takes(low=-1)
