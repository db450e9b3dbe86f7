import json

import pytest
import torch

from lit_ft.classification.labelled_text import LabelledText
from lit_ft.core.errors import ConfigError
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens import tokenized as tokenized_module
from lit_ft.tokens.tokenized import tokenized, tokenizer_fingerprint

ROWS = [{"text": "a" * (1 + i % 40) + str(i), "label": ["no", "yes", "maybe"][i % 3]} for i in range(120)]


class Trainer:
    """What a data module sees of a trainer."""

    def __init__(self, tokenizer=None):
        self.lightning_module = type("Module", (), {"tokenizer": tokenizer or byte_tokenizer()})()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def table(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data(tmp_path, rows=ROWS, name="rows.jsonl", **arguments):
    module = LabelledText(table(tmp_path / name, rows), **arguments)
    module.trainer = Trainer()
    module.prepare_data()
    module.setup("fit")
    return module


def texts(module, split):
    words = byte_tokenizer()
    return [words.decode(ids) for ids, _ in module.rows[split]]


def test_splits_are_disjoint_seeded_and_whole(tmp_path):
    first, again = data(tmp_path, seed=3), data(tmp_path, seed=3)
    parts = {split: texts(first, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 96, "val": 12, "test": 12}
    assert sorted(sum(parts.values(), [])) == sorted(row["text"] for row in ROWS)  # noqa: RUF017
    assert texts(again, "val") == parts["val"]
    assert texts(data(tmp_path, seed=4), "val") != parts["val"]
    capped = data(tmp_path, seed=3, max_rows=10, max_eval_rows=5)
    assert texts(capped, "train") == parts["train"][:10]
    assert texts(capped, "test") == parts["test"][:5]


def test_batches_hold_texts_beside_their_labels_and_little_padding(tmp_path):
    module = data(tmp_path, batch_size=8)
    truth = {row["text"]: row["label"] for row in ROWS}
    words, seen, padded, real = byte_tokenizer(), [], 0, 0
    assert module.class_names == ["maybe", "no", "yes"]
    for batch in module.train_dataloader():
        assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.int64)
        padded, real = padded + batch["input_ids"].numel(), real + int(batch["attention_mask"].sum())
        for ids, mask, label in zip(*batch.values(), strict=True):
            text = words.decode(ids[mask.bool()])
            assert (ids[~mask.bool()] == words.pad_token_id).all()
            assert truth[text] == module.class_names[label]
            seen.append(text)
    assert sorted(seen) == sorted(texts(module, "train"))
    assert padded < 1.25 * real
    in_order = [words.decode(ids[mask.bool()]) for batch in module.predict_dataloader()
                for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]  # fmt: skip
    assert in_order == texts(module, "test")


def test_labels_are_ordered_as_numbers_even_as_text(tmp_path):
    rows = [{"text": str(i), "label": str(label)} for i, label in enumerate([10, 2, 1] * 20)]
    assert data(tmp_path, rows).class_names == ["1", "2", "10"]


def test_own_files_for_validation_and_test(tmp_path):
    val = table(tmp_path / "val.jsonl", [{"text": "v", "label": "yes"}, {"text": ROWS[0]["text"], "label": "no"}])
    with pytest.warns(UserWarning, match="1 of 2 val rows have a text that is also a training row"):
        module = data(tmp_path, val_path=val, test_fraction=0.0)
    assert texts(module, "val") == ["v", ROWS[0]["text"]]
    assert len(texts(module, "train")) == 120
    assert module.test_dataloader() == []


def test_long_rows_are_cut_counted_and_keep_their_closing_token(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"\d+ of 96 train examples are longer than max_length = 10 and are cut, which loses \d+ % of all",
    ):
        module = data(tmp_path, max_length=10)
    assert max(len(ids) for ids, _ in module.rows["train"]) == 10
    words = byte_tokenizer()
    closed = [{"text": "b" * 30 + words.sep_token, "label": i} for i in (0, 1)] * 4
    with pytest.warns(UserWarning, match="longer"):
        module = data(tmp_path, closed, "closed.jsonl", max_length=5, val_fraction=0.0, test_fraction=0.0)
    assert all(ids[-1] == words.sep_token_id and len(ids) == 5 for ids, _ in module.rows["train"])


@pytest.mark.parametrize(
    ("rows", "arguments", "complaint"),
    [
        ([{"text": "a", "label": 1}] * 9, {}, "at least two different labels; all are '1'"),
        (ROWS, {"label": "labels"}, "did you mean 'label'"),
        (ROWS, {"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction"),
        (ROWS, {"batch_size": 0}, "batch_size"),
        (ROWS, {"max_length": 0}, "max_length"),
    ],
)
def test_useless_data_and_settings_are_refused(tmp_path, rows, arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        data(tmp_path, rows, **arguments)


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_list_is_neither_a_text_nor_a_label(tmp_path, column):
    for name in ("path", "val_path"):
        rows = [ROWS[0], {**ROWS[1], column: ["a"]}, *ROWS[2:]]
        good, bad = table(tmp_path / "good.jsonl", ROWS), table(tmp_path / "bad.jsonl", rows)
        module = LabelledText(**{"path": good, name: bad})
        module.trainer = Trainer()
        with pytest.raises(ConfigError, match=f"a text in '{column}', not a list or an object; see row 2 of .*bad"):
            module.setup("fit")


def test_a_model_without_tokenizer_is_refused(tmp_path):
    module = LabelledText(table(tmp_path / "rows.jsonl", ROWS))
    module.trainer = Trainer()
    module.trainer.lightning_module = object()
    with pytest.raises(ConfigError, match="a model with a tokenizer, unlike object"):
        module.setup("fit")


def test_texts_are_tokenised_once_for_each_tokenizer(tmp_path, monkeypatch):
    calls = []
    original = tokenized_module._tokenize
    monkeypatch.setattr(tokenized_module, "_tokenize", lambda *a: (calls.append(1), original(*a)))
    words, lines = byte_tokenizer(), ["one", "two\u2028", ""]
    first = tokenized(lines, words)
    words(lines, padding=True, truncation=True, max_length=2)  # leaves its settings in the tokenizer
    again = tokenized(lines, words)
    assert len(calls) == 1
    assert [again[i].tolist() for i in range(3)] == [words(line)["input_ids"] for line in lines]
    assert first.lengths == again.lengths
    tokenized([*lines, "three"], words)
    words.add_tokens(["one"])
    assert tokenized(lines, words)[0].tolist() == [len(words) - 1]
    assert len(calls) == 3
    assert tokenizer_fingerprint(words) != tokenizer_fingerprint(byte_tokenizer())
