import json

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data.sources.tables import read_rows

ROWS = [{"text": "one\u2028line", "label": 0}, {"text": 'quoted "comma", and\nnewline', "label": 1}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_format_gives_the_same_rows(tmp_path):
    import csv

    import pyarrow as pa
    import pyarrow.parquet
    from datasets import Dataset

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS)
    assert read_rows(write(tmp_path / "a.jsonl", "\ufeff" + lines)) == ROWS
    assert read_rows(write(tmp_path / "b.json", json.dumps(ROWS))) == ROWS
    assert read_rows(write(tmp_path / "c.json", lines)) == ROWS, "JSONL under the name .json"
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    assert read_rows(str(tmp_path / "d.parquet")) == ROWS
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert read_rows(str(tmp_path / "saved")) == ROWS
    for name, delimiter in (("e.csv", ","), ("f.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        assert read_rows(str(tmp_path / name)) == [{**row, "label": str(row["label"])} for row in ROWS]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.jsonl", "", "at least one row"),
        ("a.csv", "text,label\n", "at least one row"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": \n', "line 3"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "line 2 is a list"),
        ("a.json", '{"text": "a"}', "a list of objects"),
        ("a.csv", "text,label\na,1\nb\n", "line 3"),
        ("a.csv", "text,label\na,1,2\n", "line 2"),
        ("a.jsonl", '{"texts": "a", "label": 1}\n', "did you mean 'texts'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": null, "label": 1}\n', "in row 2 it is empty"),
    ],
)
def test_a_broken_source_is_named_with_its_line(tmp_path, name, text, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        read_rows(write(tmp_path / name, text), ("text", "label"))
    assert name in str(error.value)


def test_what_is_not_there_and_what_is_not_known(tmp_path):
    with pytest.raises(ConfigError, match="nothing is at"):
        read_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="nothing is at"):
        read_rows("./no/folder")
    with pytest.raises(ConfigError, match="did you mean 'sms-spam'"):
        read_rows("packaged:sms-span")


def test_first_rows_only(tmp_path):
    assert read_rows(write(tmp_path / "a.json", json.dumps(ROWS)), max_rows=1) == ROWS[:1]
