"""Classes of a column: the same names and the same order from every file type, in every process."""

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lit_ft.classification.labelled_text import LabelledText
from lit_ft.core.errors import ConfigError
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.sources.class_names import class_name, class_names, labelled


def classes_of(cells: list[Any]) -> tuple[list[str], list[str]]:
    names, numbers = labelled({"train": [{"label": cell} for cell in cells]}, {"train": [*range(1, 99)]}, "label")
    return names, [names[number] for number in numbers["train"]]


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ([0, 0.0, -0.0, "0", "0.0", "-0", Decimal("0.00")], "0"),
        ([7, 7.0, "7", "7.00", Decimal(7)], "7"),
        ([-1.5, "-1.5", "-1.50"], "-1.5"),
        ([10**30, str(10**30)], "1" + "0" * 30),
        (["007"], "007"),
        (["+7"], "+7"),
        (["1e3"], "1e3"),
        (["7."], "7."),
        ([" 7"], " 7"),
        (["1.2.3"], "1.2.3"),
        (["٣"], "٣"),
        ([1e-07, "1e-07"], "1e-07"),
        ([True, "True"], "True"),
        (["ham "], "ham "),
        ([None, float("nan"), "", "  ", "\t"], ""),
    ],
)
def test_a_cell_says_one_class_whatever_its_type(cells: list[Any], name: str) -> None:
    assert [class_name(cell) for cell in cells] == [name] * len(cells)


def test_numbers_by_size_then_texts_in_every_order_of_rows() -> None:
    names = ["007", "7", "8", "10", "-2", "0.5", "b", "B", "a", "1e-07", "9" * 40]
    expected = ["-2", "0.5", "7", "8", "10", "9" * 40, "007", "1e-07", "B", "a", "b"]
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert class_names(names) == expected


def test_look_alikes_are_two_classes_and_counted() -> None:
    for cells, said in (
        (["ham"] * 4 + ["ham "] * 2, r"2 of 6 rows have label = 'ham ', a class of its own beside 'ham' \(4 rows\)"),
        (["Spam"] + ["spam"] * 2, "1 of 3 rows have label = 'Spam'"),
        (["7", "7", "007"], "1 of 3 rows have label = '007'"),
        (["1000", "1000", "1e3"], "1 of 3 rows have label = '1e3'"),
        (["1", "1", "+1"], r"1 of 3 rows have label = '\+1'"),
        (["caf\u00e9", "caf\u00e9", "cafe\u0301"], "1 of 3 rows"),
        (["a b", "a b", "a  b"], "1 of 3 rows"),
        (["not so", "not so", "not\u00a0so"], "1 of 3 rows"),
    ):
        with pytest.warns(UserWarning, match=said):
            names, rows = classes_of(cells)
        assert len(names) == 2
        assert rows == cells


def test_a_boolean_is_one_class_in_json_and_in_csv() -> None:
    assert classes_of([True, "false", "TRUE", False]) == (["False", "True"], ["True", "False", "True", "False"])
    assert classes_of(["true", "half-true"])[0] == ["half-true", "true"], "texts stay as they are"


@pytest.mark.parametrize("nothing", [None, "", " ", float("nan")])
def test_nothing_is_no_class(nothing: Any) -> None:
    with pytest.raises(ConfigError, match=r"label: given 'label'; allowed: .*: 2 of 4 train rows have none: 2, 3"):
        classes_of(["a", nothing, nothing, "b"])


@pytest.mark.parametrize("cell", [["a"], {"a": 1}, b"a"])
def test_what_is_neither_text_nor_number_is_no_class(cell: Any) -> None:
    with pytest.raises(ConfigError, match="a text or a number"):
        class_name(cell)


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], [True, False], ["no", "yes"], [2, 10], [0.5, 1.0]])
def test_every_file_type_gives_the_same_classes(labels: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    rows = [{"text": f"text {i}", "label": labels[i % 2]} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = []
    for name in ("rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"):
        data = LabelledText(str(tmp_path / name), val_path=str(tmp_path / "rows.csv"), test_fraction=0.0)
        data.tokenizer = byte_tokenizer()
        data.setup("fit")
        found.append((data.class_names, [label for _, label in data.rows["train"] + data.rows["val"]]))
    assert len(found[0][0]) == 2
    assert all(one == found[0] for one in found)
