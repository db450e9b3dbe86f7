import gzip
import json

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.sources.table_format import TableFormat
from lit_ft.sources.tables import read_rows, stream_rows

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
        quoted = TableFormat(quoting=True)  # in a TSV they are marks where that is said
        assert read_rows(str(tmp_path / name), form=quoted) == [{**row, "label": str(row["label"])} for row in ROWS]


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


def test_compressed_files_are_read_as_what_they_hold(tmp_path):
    lines = "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in ROWS)
    for name, text in (("a.jsonl.gz", lines), ("b.json.gz", json.dumps(ROWS)), ("c.TSV.GZ", "text\tlabel\none\t1\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        expected = [{"text": "one", "label": "1"}] if "TSV" in name else ROWS
        assert read_rows(str(tmp_path / name)) == expected
        if ".json." not in name:
            assert list(stream_rows(str(tmp_path / name))) == expected
    whole = gzip.compress(lines.encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "plain.jsonl.gz").write_text(lines)
    for name in ("cut", "plain"):
        with pytest.raises(ConfigError, match=f"{name}.jsonl.gz.*a whole file, compressed by gzip"):
            read_rows(str(tmp_path / f"{name}.jsonl.gz"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "UTF-8: line 2 "),
        ("a.csv", "a\n1\nü\n".encode("cp1252"), "UTF-8: line 3 "),
        ("a.jsonl", b'{"a": 1}\n\n{"a": "\\ud83d"}\n', r"line 3 has half of one \(\\ud800"),
        ("a.parquet", b"PAR1", "a Parquet file: "),
        ("a.csv", b"PAR1\0\0\0", "text, as its name says: this is a Parquet file"),
        ("a.csv", b"PK\x03\x04\0\0", "this is a zip archive, as those of Excel are"),
        ("a.jsonl", gzip.compress(b'{"a": 1}', mtime=0), r"this is compressed by gzip, which a name in \.gz says"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Parquet file: this is a pointer of Git LFS"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "this is a pointer of Git LFS"),
        ("a.json", b'{"a": [1, 2], "b": [1]}', "a list of objects, unlike an object with a, b"),
        ("a.json", b'{"data": []}', "a list of objects, unlike an object with data"),
        ("a.txt", b'{"a": 1}', r"ends in \.jsonl, .*\.parquet; or in \.gz"),
        ("a", b'{"a": 1}', r"ends in \.jsonl, "),
        ("a.parquet.gz", b"", r"ends in \.jsonl, "),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_line(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    for read in (read_rows, lambda path: list(stream_rows(path))):
        if read is read_rows or not name.endswith(".json"):
            with pytest.raises(ConfigError, match=complaint):
                read(str(tmp_path / name))


def test_whole_characters_written_in_two_halves_are_read(tmp_path):
    assert read_rows(write(tmp_path / "a.jsonl", '{"a": "\\ud83c\\udf89"}')) == [{"a": "🎉"}]
