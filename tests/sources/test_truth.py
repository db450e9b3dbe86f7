"""Columns that say whether a row is wanted: used, or refused where nothing reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import TextPairs
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.sources.table_data import TableData
from lit_ft.sources.truth import check_verdicts

ROWS = [{"text": f"t{i}", "good": i % 3 != 0} for i in range(12)]


@pytest.mark.parametrize("values", [(True, False), (1, 0), (1.0, 0.0), ("yes", "No"), ("TRUE", "false")])
def test_only_the_rows_in_which_a_column_is_true(values: tuple[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "good": values[0 if row["good"] else 1]}) for row in ROWS))
    source = TableData(str(path), val_fraction=0.25, only="good").source
    tables, numbers = source.read(["text"])
    assert sorted(n for split in numbers.values() for n in split) == [2, 3, 5, 6, 8, 9, 11, 12]
    assert all(row["text"] == f"t{n - 1}" for s in tables for row, n in zip(tables[s], numbers[s], strict=True))
    assert [row["text"] for row in source.stream(["text"])] == [row["text"] for row in ROWS if row["good"]]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("text", r"only: given \"text = 't.' in row"),
        ("goood", "did you mean 'good'"),
        ("never", "a column that is true in some of the"),
    ],
)
def test_a_column_that_does_not_say_is_refused(only: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "never": 0}) for row in ROWS))
    with pytest.raises(ConfigError, match=message):
        TableData(str(path), val_fraction=0.25, only=only).source.read(["text"])


def test_a_verdict_that_nothing_reads_is_refused() -> None:
    rows = [{"a": "x", "is_duplicate": 1}, {"a": "y", "is_duplicate": 0}]
    with pytest.raises(ConfigError, match=r"row 4 has is_duplicate = 0.*only: is_duplicate"):
        check_verdicts(rows, [3, 4], {"a"}, "pairs.csv")
    check_verdicts(rows, [3, 4], {"a", "is_duplicate"}, "pairs.csv")
    check_verdicts(rows[:1], [3], {"a"}, "pairs.csv")  # all are wanted
    check_verdicts([{"label": 0}, {"label": "spam"}], [1, 2], set(), "classes.csv")  # classes, no verdicts
    check_verdicts([{"toxic": False}], [1], set(), "rows.jsonl")  # what is false there says nothing about the answer


def test_pairs_that_do_not_match_are_no_positives(tmp_path: Path) -> None:
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "label": i % 2} for i in range(8)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = TextPairs(str(path), val_fraction=0.0, batch_size=2)
    data.tokenizer = byte_tokenizer()
    with pytest.raises(ConfigError, match="only: label"):
        data.setup("fit")
    data = TextPairs(str(path), val_fraction=0.0, batch_size=2, only="label")
    data.tokenizer = byte_tokenizer()
    data.setup("fit")
    assert len(data.rows["train"]) == 4
