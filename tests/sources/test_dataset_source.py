"""Splits, slices and class names of sources of ``datasets``: saved folders, folders of files, Parquet."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions, LabelledText, StreamedInstructions
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.sources.dataset_source import DatasetPlace, opened
from lit_ft.sources.tables import read_rows, read_splits, stream_rows

CLASSES = ClassLabel(names=["bad", "good"])
FEATURES = Features({"text": Value("string"), "label": CLASSES, "all": Sequence(CLASSES)})


def part(name: str, n: int, hidden: bool = False) -> Dataset:
    rows = [{"text": f"{name} {i}", "label": -1 if hidden else i % 2, "all": [0, i % 2]} for i in range(n)]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    parts = {"train": part("train", 20), "validation": part("validation", 6), "test": part("test", 7)}
    DatasetDict({**parts, "extra": part("extra", 10)}).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def ready(data: LabelledText) -> LabelledText:
    data.tokenizer = byte_tokenizer()
    data.setup("fit")
    return data


def texts(data: LabelledText, split: str) -> list[str]:
    return [data.tokenizer.decode(ids) for ids, _ in data.rows[split]]


def test_own_splits_and_names_of_classes_are_used(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(LabelledText(saved))
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 20, "val": 6, "test": 7}
    assert texts(data, "val") == [f"validation {i}" for i in range(6)]
    assert data.class_names == ["bad", "good"]
    assert data.place_of(2) == {"row": 3}
    said = capsys.readouterr().err
    assert "read train (20 rows), validation (6 rows), test (7 rows); not used: extra" in said


def test_written_shares_and_paths_win(saved: str) -> None:
    data = ready(LabelledText(saved, val_fraction=0.25, test_path=f"{saved}:extra"))
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 15, "val": 5, "test": 10}
    assert texts(data, "test")[0] == "extra 0"
    assert {text.split()[0] for text in texts(data, "val")} == {"train"}


def test_a_table_for_validation_is_the_split_for_it_or_the_only_one(saved: str, tmp_path: Path) -> None:
    Path(tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"r{i},good\ns{i},bad\n" for i in range(9)))
    DatasetDict(rest=part("rest", 3)).save_to_disk(tmp_path / "only")
    data = ready(LabelledText(str(tmp_path / "rows.csv"), val_path=saved, test_path=str(tmp_path / "only")))
    assert texts(data, "val")[0] == "validation 0"
    assert texts(data, "test")[0] == "rest 0"
    DatasetDict(train=part("a", 3), more=part("b", 3)).save_to_disk(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"split: given None; allowed: one of the splits of .*two: train, more"):
        ready(LabelledText(saved, val_path=str(tmp_path / "two")))


@pytest.mark.parametrize(
    ("split", "first", "rows"),
    [("extra", "extra", 10), ("test", "test", 7), ("train[:5]", "train", 5), ("test[3:]+extra", "test", 14)],
)  # fmt: skip
def test_another_split_or_a_slice(saved: str, split: str, first: str, rows: int) -> None:
    data = ready(LabelledText(saved, split=split, val_fraction=0.0, test_fraction=0.0))
    assert len(texts(data, "train")) == rows
    assert len(ready(LabelledText(saved, split=split)).rows["val"]) == round(0.1 * rows), "a share of it"
    assert read_rows(saved, split=split)[0]["text"].startswith(first)
    assert read_rows(f"{saved}:{split}")[0]["text"].startswith(first)


@pytest.mark.parametrize(
    ("path", "split", "complaint"),
    [
        ("saved", "tets", r"split: given 'tets'; .*train, validation, test, extra \(did you mean 'test'\?\)"),
        ("saved", "train[:x]", "split: given .*of the splits train, validation, test, extra, whole or a slice"),
        ("saved:test", "extra", r"split: given 'extra'; allowed: null, as .*saved:test names the split 'test'"),
        ("saved:tset", None, r"split: given 'tset'; .*did you mean 'test'"),
        ("one", "test", "split: given 'test'; allowed: null: .*one has no splits"),
        ("rows.csv", "test", "split: given 'test'; allowed: null: .*rows.csv is one file, without splits"),
        ("twice", None, r"path: given 'validation and dev'; allowed: one of them"),
        ("trainless", None, "split: given None; allowed: one of the splits of .*trainless: train_sft, test_sft"),
    ],
)
def test_what_is_not_there_is_named(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, split: str | None, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = part("a", 3)
    rows.save_to_disk("one")
    Path("rows.csv").write_text("text\na\n")
    DatasetDict(train=rows, validation=rows, dev=rows).save_to_disk("twice")
    DatasetDict(train_sft=rows, test_sft=rows).save_to_disk("trainless")
    for read in (lambda: read_splits(path, split=split), lambda: list(stream_rows(path, split=split))):
        with pytest.raises(ConfigError, match=complaint):
            read()


def test_a_test_whose_labels_are_hidden_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"train": part("train", 20), "test": part("test", 5, hidden=True)}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = ready(LabelledText(str(tmp_path / "saved")))
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 16, "val": 2, "test": 2}
    assert "its test split is not used, as no row of it has a 'label'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="in row 1 it is empty"):
        read_rows(f"{tmp_path}/saved:test", ["label"])


def test_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, n in (("train", 12), ("validation", 3)):
        (folder / f"{name}.jsonl").write_text("".join(f'{{"prompt": "p{i}", "completion": "c"}}\n' for i in range(n)))
    tables = read_splits(str(folder))
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 12, "val": 3}
    data = Instructions(str(folder))
    data.tokenizer = byte_tokenizer()
    data.setup("fit")
    assert {split: len(table) for split, table in data.examples.items()} == {"train": 12, "val": 3}
    streamed = StreamedInstructions(str(folder), epoch_batches=2, buffer=8, batch_size=4)
    streamed.tokenizer = byte_tokenizer()
    streamed.setup("fit")
    assert {split: len(table) for split, table in streamed.examples.items()} == {"val": 3}
    assert [row["prompt"] for row in stream_rows(str(folder), split="validation")] == ["p0", "p1", "p2"]
    with pytest.raises(ConfigError, match="a whole split where rows are streamed: train, validation"):
        list(stream_rows(str(folder), split="train[:2]"))


def test_a_saved_dictionary_is_streamed(saved: str) -> None:
    assert list(stream_rows(saved)) == read_rows(saved)
    assert next(stream_rows(f"{saved}:extra"))["label"] == "bad"


def test_parquet_that_datasets_wrote_keeps_names(tmp_path: Path) -> None:
    part("a", 3).to_parquet(tmp_path / "rows.parquet")
    expected = [
        {"text": f"a {i}", "label": CLASSES.names[i % 2], "all": ["bad", CLASSES.names[i % 2]]} for i in range(3)
    ]
    assert read_rows(str(tmp_path / "rows.parquet")) == expected
    assert json.dumps(expected)


def test_configuration_and_split_of_a_hub_id_are_sayable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, configuration: str | None = None, streaming: bool = False) -> DatasetDict:
        asked.append((path, configuration, streaming))
        return DatasetDict(train=part("t", 4), validation_matched=part("m", 3))

    monkeypatch.setattr("datasets.load_dataset", load)
    read: Callable[[str], list] = read_rows
    assert len(read("nyu-mll/glue:mnli:validation_matched")) == 3
    assert len(read("nyu-mll/glue:mnli")) == len(read("imdb")) == 4
    assert len(list(stream_rows("imdb::validation_matched"))) == 3
    assert asked == [("nyu-mll/glue", "mnli", False)] * 2 + [("imdb", None, False), ("imdb", None, True)]
    assert list(opened(DatasetPlace.of("imdb"))) == ["train", "validation_matched"]
