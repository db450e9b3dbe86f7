"""Mappings to dataclasses: what is wrong with a key or a value is one line that says where it stands."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.core.plain import fits, from_mapping


@dataclass
class Part:
    name: str
    sizes: list[int]
    kind: Literal["round", "flat"] = "flat"
    tags: dict[str, str | None] = field(default_factory=dict)


def test_a_mapping_becomes_an_object() -> None:
    assert from_mapping(Part, {"name": "a", "sizes": [1]}) == Part("a", [1])
    assert from_mapping(Part, {"sizes": [1], "kind": "round"}, name="b") == Part("b", [1], "round")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "a", "sizes": [], "knd": "flat"}, r"part\.knd: given 'flat'; allowed: .*did you mean 'kind'"),
        ({"name": "a"}, r"part\.sizes: given None; allowed: a value; needed are name, sizes"),
        ({"name": 3, "sizes": []}, r"part\.name: given 3; allowed: str"),
        ({"name": "a", "sizes": [True]}, r"part\.sizes: given \[True\]; allowed: list\[int\]"),
        ({"name": "a", "sizes": [], "kind": "square"}, r"part\.kind: given 'square'; allowed: .*'round', 'flat'"),
        ({"name": "a", "sizes": [], "tags": {"x": 1}}, r"part\.tags: given \{'x': 1\}"),
        (["name"], r"part: given \['name'\]; allowed: a mapping with the keys name, sizes, kind, tags"),
    ],
)
def test_what_is_wrong_is_one_line(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        from_mapping(Part, mapping, "part")
    assert "\n" not in str(raised.value)


def test_what_is_given_is_not_in_the_mapping() -> None:
    with pytest.raises(ConfigError, match="name: given 'a'; allowed: the keys sizes, kind, tags"):
        from_mapping(Part, {"name": "a", "sizes": []}, name="b")


def test_plain_data_fits_its_annotation() -> None:
    assert fits({"a": [1, None]}, dict[str, list[int | None]])
    assert fits(object(), Any)
    assert not fits(True, int)
    assert not fits(1, float | None)


def test_a_network_says_which_value_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"network\.dtype: given 'float8'"):
        Network.of({"path": "here", "dtype": "float8"})
    with pytest.raises(ConfigError, match="network: given 'here'; allowed: a mapping with the keys path"):
        Network.of("here")  # type: ignore[arg-type]
