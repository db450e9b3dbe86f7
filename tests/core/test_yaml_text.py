"""What stands in a YAML file is what is read, or is refused with its line."""

import math
import time

import pytest
import yaml

from lit_ft.core.yaml_text import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1e3, 1e-3, 5E+2, .5, 1., -1.5e-4, +3]", [1000.0, 0.001, 500.0, 0.5, 1.0, -0.00015, 3]),
        ("[0, -0, 10, 1_000, 0x1f, 0b11]", [0, 0, 10, 1000, 31, 3]),
        ("[true, False, null, ~, '', 'yes', \"010\"]", [True, False, None, None, "", "yes", "010"]),
        ("[12:30:00, 1:30, 2024-01-01, 2024-01-01 12:00:00, 1.2.3, 0o10]",
         ["12:30:00", "1:30", "2024-01-01", "2024-01-01 12:00:00", "1.2.3", "0o10"]),
        ("{yes: a, no: b, on: c, 1e3: d, 0: e, 010: f, 12:30:00: g, null: h, true: i, 2024-01-01: j, .5: k}",
         dict(zip(["yes", "no", "on", "1e3", "0", "010", "12:30:00", "null", "true", "2024-01-01", ".5"], "abcdefghijk",
                  strict=True))),
        ("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}", {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}}),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_written_is_what_is_read(text: str, value: object) -> None:
    assert repr(read_yaml(text)) == repr(value)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("trainer: {a: 1}\nmodel: x\ntrainer: {b: 1}", 3, "the key 'trainer' stands here and in line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 1", 4, "the key 'b' stands here and in line 2"),
        ("a: [{x: 1, x: 1}]", 1, "the key 'x'"),
        ("0: a\n'0': b", 2, "the key '0'"),
        ("a: 1\nb: yes", 2, "yes is read differently by versions of YAML; write the text 'yes' in quotes, or true"),
        ("- a\n- Off", 2, "'Off' in quotes"),
        ("label: 007", 1, "'007' in quotes"),
        ("a: 010", 1, "'010' in quotes"),
        ("a: 08", 1, "'08' in quotes"),
        ("a: &x\n  b: *x", 2, "whose alias stands within it"),
        ("a: &x [1, [2, *x]]", 1, "whose alias stands within it"),
        ("? [1, 2]\n: 3", 1, "a key is one word"),
        ("a: !!python/object/apply:os.system [ls]", 1, "could not determine a constructor"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: " + "9" * 9999, 1, "is no int"),
    ],
)  # fmt: skip
def test_what_would_be_lost_or_changed_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match=problem) as error:
        read_yaml(text, "some.yaml")
    assert error.value.problem_mark is not None
    assert error.value.problem_mark.name == "some.yaml"
    assert error.value.problem_mark.line + 1 in (line, 1)


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize("text", [LAUGHS, "[" * 50_000, "{a: " * 50_000, "- " * 50_000 + "a"])
def test_what_would_take_minutes_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match=r"aliases that make more than|within each other"):
        read_yaml(text)
    assert time.process_time() - start < 1


def test_a_large_file_without_aliases_is_read() -> None:
    assert len(read_yaml("\n".join(f"- {{k: {n}}}" for n in range(30_000)))) == 30_000


def test_what_is_written_is_read_again() -> None:
    words = ["yes", "1e3", "010", "08", "0", "null", "12:30:00", "2024-01-01", "a: b", "", " x ", "[", "é", "0x1f", "~"]
    data = {"texts": words, "numbers": [1e3, 1e-9, 0, -1, True, None, math.inf], "keys": {word: 1 for word in words}}
    assert read_yaml(write_yaml(data)) == data
