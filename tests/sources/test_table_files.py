"""Files as they are: what stands in one is read as it stands there, or the file is refused with the line."""

import codecs
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import LabelledText
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.sources.table_format import TableFormat, table_format
from lit_ft.sources.tables import read_rows, stream_rows

FILES = Path(__file__).parent / "layouts"


def write(folder: Path, name: str, content: str | bytes) -> str:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(folder / name)


def classes(path: Path, **arguments: Any) -> LabelledText:
    data = LabelledText(str(path), val_fraction=0.0, test_fraction=0.0, **arguments)
    data.tokenizer = byte_tokenizer()
    data.setup("fit")
    return data


def test_marks_in_a_file_without_header_are_text() -> None:
    path = FILES / "headerless_quotes.tsv"
    rows = read_rows(str(path), form=TableFormat(columns=("label", "text")))
    assert len(rows) == 20
    assert rows[0] == {"label": "song", "text": "the heron sings at pond 0"}
    assert rows[3] == {"label": "call", "text": '"lovely crane at last'}
    assert rows[9]["text"] == 'they call it "a swift"'
    assert rows[11]["text"] == 'so said the guide of the dunlin"'
    assert classes(path, columns=["label", "text"]).class_names == ["call", "song"]
    with pytest.raises(ConfigError, match="where the file has no header, columns names them"):
        classes(path)


def test_another_encoding_is_named_in_the_refusal_and_read_where_it_is_said() -> None:
    path = FILES / "spam_cp1252.csv"
    with pytest.raises(ConfigError, match=r"text in UTF-8: line 2 has invalid start byte .encoding: .*cp1252"):
        read_rows(str(path))
    rows = read_rows(str(path), form=TableFormat(encoding="cp1252"))
    assert rows[0] == {"v1": "spam", "v2": "Win a heron for £0, reply now"}
    assert rows[1]["v2"] == "Meet at the café by pond 1, bring the wren book"
    assert classes(path, text="v2", label="v1", encoding="cp1252").class_names == ["ham", "spam"]
    with pytest.raises(ConfigError, match=r"encoding: given 'cp125'; allowed: an encoding that Python knows"):
        LabelledText(str(path), encoding="cp125")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.tsv", "a.csv.gz"])
def test_a_mark_at_the_beginning_says_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    delimiter = "\t" if "tsv" in name else ","
    text = f"text{delimiter}label\nein Hörer €{delimiter}1\n"
    row = {"text": "ein Hörer €", "label": "1"}
    if "json" in name:
        text = json.dumps([row] if name == "a.json" else row, ensure_ascii=False)
    path = write(tmp_path, name, text.encode(encoding))
    assert read_rows(path) == [row]
    if encoding == "utf-16":
        with pytest.raises(ConfigError, match=r"encoding: given 'cp1252'; allowed: null: .* the mark of utf-16"):
            read_rows(path, form=TableFormat(encoding="cp1252"))
        write(tmp_path, name, text.encode("utf-16-le"))
        with pytest.raises(ConfigError, match=r"encoding: given None; .*utf-16-le"):
            read_rows(path)
        assert read_rows(path, form=TableFormat(encoding="utf-16-le")) == [row]


@pytest.mark.parametrize(
    ("text", "form", "rows"),
    [
        ("text;label\na, b;1\n", {}, [{"text": "a, b", "label": "1"}]),
        ("text\tlabel\na, b\t1\n", {}, [{"text": "a, b", "label": "1"}]),
        ("sep=;\r\ntext;label\r\na;1\r\n", {}, [{"text": "a", "label": "1"}]),
        ("text|label\na|1\n", {"delimiter": "|"}, [{"text": "a", "label": "1"}]),
        ("a,1\nb,2\n", {"columns": ("text", "label")}, [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]),
        ("a;1\nb;2\n", {"columns": ("text", "label")}, [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]),
        ('he said "no",1\n', {"columns": ("text", "label")}, [{"text": 'he said "no"', "label": "1"}]),
        ('text,label\n"a ""b"", and\nc",1\n', {}, [{"text": 'a "b", and\nc', "label": "1"}]),
        ('text,label\n"a,1\n', {"quoting": False}, [{"text": '"a', "label": "1"}]),
        ("text,label\nnan,1\n", {}, [{"text": math.nan, "label": "1"}]),
        ("text\na; b\n", {}, [{"text": "a; b"}]),
        ("text,label\ra,1\rb,2\r", {}, [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]),
        ("text,label,\na,1,\n\nb,2,\n", {}, [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]),
    ],
)
def test_cells_are_divided_as_the_file_says(tmp_path: Path, text: str, form: dict[str, Any], rows: Any) -> None:
    found = read_rows(write(tmp_path, "a.csv", text), form=TableFormat(**form))
    assert repr(found) == repr(rows)


@pytest.mark.parametrize(
    ("name", "text", "form", "complaint"),
    [
        ("a.csv", 'text,label\na,1\n"open,1\nb,2\n', {}, "those of the row from line 3 do not"),
        ("a.csv", 'text,label\n"open,1\nsaid "so",2\n', {}, "row from line 2 do not .*quoting: false"),
        ("a.csv", "text,text\na,1\n", {}, "line 1 has text twice"),
        ("a.tsv", "text\tlabel\ttext\na\t1\tb\n", {}, "line 1 has text twice"),
        ("a.tsv", 'text\tlabel\n"a\nb"\t1\n', {}, "line 2 has not, but 1; quoting: true"),
        ("a.csv", "text|label\na, b|1\n", {}, "1 cells in every row: line 2 has not, but 2; delimiter says"),
        ("a.csv", "text;kind, label\na;b\n", {}, "delimiter: given None; .* ',' and ';' both may"),
        ("a.csv", "text,label\na,1\n", {"columns": ("text", "label")}, "null: line 1 of .* has these names itself"),
        ("a.csv", "text,label,x\na,1,2\n", {"columns": ("text", "label")}, "2 cells in every row: line 1 has not"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b", "text": "c"}\n', {}, "line 3 has the key 'text' twice"),
        ("a.jsonl", '{"m": [{"role": "a", "role": "b"}]}\n', {}, "line 1 has the key 'role' twice"),
        ("a.json", '[{"t": 1},\n {"t": 2,\n "t": 3}]', {}, "begins in line 2 has the key 't' twice"),
        ("a.json", '{"b": {"t": 1},\n "b": {"t": 2}}', {}, "begins in line 1 has the key 'b' twice"),
        ("a.jsonl", '{"text": "a"}\n', {"columns": ("text",)}, "columns: given .* null for .* have names themselves"),
        ("a.jsonl", '["a", 1]\n["b"]\n', {"columns": ("text", "label")}, "1 names, as line 2"),
        ("a.jsonl", '{"text": "a"}\n', {"delimiter": ";"}, "delimiter: given ';'; allowed: null for "),
        ("a.json", '{"train": [{"t": 1}], "test": [{"t": 2}]}', {}, "unlike an object with train, test"),
        ("a.json", json.dumps({f"k{i}": i for i in range(4815)}), {}, r"k7, \.\.\. \(4,815 in all\)$"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, form: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_rows(write(tmp_path, name, text), form=TableFormat(**form))


def test_columns_without_a_name_are_counted_where_they_hold_something(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a column without a name is not read: 2 rows of .*a.csv"):
        rows = read_rows(write(tmp_path, "a.csv", "text,label,,\na,1,x,\nb,2,,\nc,3,,y\n"))
    assert rows[2] == {"text": "c", "label": "3"}


def test_marks_around_cells_of_a_tsv_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"a ""b"""\t1\n"c\t2\n')
    with pytest.warns(UserWarning, match="1 rows of .* have a cell between quotation marks.*; quoting: true"):
        assert read_rows(path)[0]["text"] == '"a ""b"""'
    assert read_rows(path, form=TableFormat(quoting=False))[1]["text"] == '"c'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '[{"t": 1}, {"t": 2}]'),
        ("a.jsonl", '\n[\n {"t": 1},\n {"t": 2}\n]\n'),
        ("a.jsonl", '{\n "a": {"t": 1},\n "b": {"t": 2}\n}\n'),
        ("a.json", '{"101": {"t": 1}, "102": {"t": 2}}'),
        ("a.json", '{"version": "1.0", "data": [{"t": 1}, {"t": 2}]}'),
        ("a.json", '{"t": {"0": 1, "1": 2}}'),
        ("a.json", '{"t": 1}\n{"t": 2}'),
        ("a.jsonl.gz", '[{"t": 1}, {"t": 2}]'),
    ],
)
def test_rows_of_json_are_found_where_they_are(tmp_path: Path, name: str, text: str) -> None:
    assert read_rows(write(tmp_path, name, text)) == [{"t": 1}, {"t": 2}]


def test_columns_as_lists_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "a.json", '{"t": ["x", "y"], "n": [1, null]}')
    assert read_rows(path) == [{"t": "x", "n": 1}, {"t": "y", "n": None}]
    assert "are those of its columns t, n" in capsys.readouterr().err


def test_lists_in_the_lines_of_a_file_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '["a", 1]\n["b", 2]\n')
    form = TableFormat(columns=("text", "label"))
    assert read_rows(path, form=form) == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    assert list(stream_rows(path, form=form)) == read_rows(path, form=form)


def test_parquet_has_the_rows_of_json(tmp_path: Path) -> None:
    """Arrow fills the keys that one row has and another one lacks."""
    rows = [
        {"said": [{"role": "user", "content": "a"}], "call": {"city": "Paris"}, "text": "é"},
        {"said": [{"role": "user", "content": "b", "weight": 0.0}], "call": {"ticker": "X", "n": [1]}, "text": "b"},
    ]
    json_path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    exported = [json.dumps(row) for row in pq.read_table(tmp_path / "a.parquet").to_pylist()]
    assert "null" in exported[0]
    for path in (json_path, str(tmp_path / "a.parquet"), write(tmp_path, "b.jsonl", "\n".join(exported))):
        assert read_rows(path) == list(stream_rows(path)) == rows


def test_bytes_are_text_or_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["é".encode(), b"b"], "image": [b"\xff\xd8", b"\x89"], "n": [1, 2]}), path)
    assert read_rows(path, ["text"])[0] == {"text": "é", "image": b"\xff\xd8", "n": 1}
    with pytest.raises(ConfigError, match=r"'image': in row 1 it is b'.*', which is no text"):
        read_rows(path, ["image"])
    pq.write_table(pa.table({"text": ["é".encode("cp1252")]}), path)
    assert read_rows(path, ["text"], form=TableFormat(encoding="cp1252")) == [{"text": "é"}]
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(ConfigError, match="it has text twice"):
        read_rows(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_nan_is_no_text_and_no_class(tmp_path: Path, name: str, column: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "x"}]
    if name == "a.parquet":
        cells: list[Any] = [0.5, 1.5, math.nan]
        pq.write_table(
            pa.table({**{key: [row[key] for row in rows] for key in rows[0]}, column: cells}), tmp_path / name
        )
    else:
        rows[2][column] = math.nan
        lines = [json.dumps(row) for row in rows] if "json" in name else ["text,label"]
        lines += [] if "json" in name else [f"{row['text']},{row['label']}" for row in rows]
        write(tmp_path, name, "\n".join(lines))
    with pytest.raises(ConfigError, match=f"rows with a column '{column}': in row 3 it is nan"):
        classes(tmp_path / name)


def test_a_message_never_lists_every_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps({f"column {i}": i for i in range(5000)}))
    with pytest.raises(ConfigError, match=r"column 7, \.\.\. \(5,000 in all\)") as caught:
        read_rows(path, ["text"])
    assert len(str(caught.value)) < 500
    assert len(str(ConfigError("path", list(range(5000)), "less"))) < 700


@pytest.mark.parametrize(("arguments", "name"), [(("utf-8", [], None, None), "columns"),
                                                 ((None, ["a", "a"], None, None), "columns"),
                                                 (("rot13", None, None, None), "encoding"),
                                                 ((None, None, "::", None), "delimiter")])  # fmt: skip
def test_formats_that_cannot_be_are_refused(arguments: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: given"):
        table_format(*arguments)


def test_a_tab_may_be_written_as_a_shell_leaves_it() -> None:
    assert table_format(None, None, r"\t", None).delimiter == "\t"


def test_the_mark_of_utf_8_may_be_said_as_well(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", codecs.BOM_UTF8 + b"text\na\n")
    for encoding in ("utf-8", "UTF_8", "utf8", "utf-8-sig"):
        assert read_rows(path, form=TableFormat(encoding=encoding)) == [{"text": "a"}]
