"""Edits: the order of batches by hand, what examples hold, and rows that cannot be learned."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import FactEdits, KnownFacts, ModelEdits
from lit_ft.language.model_edits import editing_plan
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.worlds.invented_facts import invented_facts

ROWS = [
    {"prompt": f"p{i} is", "target": f" t{i}", "paraphrase": f"what is p{i}?", "locality": f"q{i} is"} for i in range(5)
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def table(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "edits.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder / "edits.jsonl")


def ready(data: Any) -> Any:
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(tokenizer=byte_tokenizer()))
    data.setup("fit")
    return data


def texts(ids: list[int]) -> str:
    return byte_tokenizer().decode(ids)


def test_breadth_first_passes_over_all_and_depth_first_stays() -> None:
    plan = editing_plan(5, 2, 3, "breadth_first")(0)
    assert len(plan) == 9
    for number in range(3):
        one = plan[3 * number : 3 * number + 3]
        assert sorted(row for batch in one for row in batch) == [0, 1, 2, 3, 4]
    assert plan[:3] != plan[3:6]  # shuffled anew
    deep = editing_plan(5, 2, 3, "depth_first")(0)
    assert [batch for batch in plan[:3] for _ in range(3)] == deep
    assert Counter(row for batch in deep for row in batch) == Counter(row for batch in plan for row in batch)
    assert editing_plan(5, 2, 3, "depth_first")(1) != deep


@pytest.mark.parametrize(("edits", "batch_size", "passes"), [(1, 1, 4), (7, 3, 1)])
def test_orders_are_one_where_nothing_can_differ(edits: int, batch_size: int, passes: int) -> None:
    ways = [editing_plan(edits, batch_size, passes, order)(2) for order in ("breadth_first", "depth_first")]  # type: ignore[arg-type]
    assert ways[0] == ways[1]


def test_examples_and_batches(tmp_path: Path) -> None:
    data = ready(ModelEdits(table(tmp_path, ROWS), "depth_first", passes=2, batch_size=2))
    found = data.editing_examples()
    for number, row in enumerate(ROWS):
        for kind, asked in (("reliability", "prompt"), ("generality", "paraphrase")):
            prompt, target = found[kind][number]
            assert (texts(prompt), texts(target)) == (row[asked], row["target"] + "</s>")
        prompt, target = found["locality"][number]
        assert (texts(prompt), target) == (row["locality"], [])
    batches = list(data.train_dataloader())
    assert [batch["rows"].tolist() for batch in batches] == editing_plan(5, 2, 2, "depth_first")(0)
    for batch in batches:
        for ids, weights, row in zip(batch["input_ids"], batch["weights"], batch["rows"], strict=True):
            assert texts(ids[weights != 0].tolist()) == ROWS[row]["target"] + "</s>"
    asked = [
        texts(ids[w == 0].tolist()).removesuffix("<pad>")
        for b in data.val_dataloader()
        for ids, w in zip(b["input_ids"], b["weights"], strict=True)
    ]
    assert sorted(asked) == [row["paraphrase"] for row in ROWS]
    assert data.test_dataloader() == []


def test_max_rows_takes_the_first(tmp_path: Path) -> None:
    data = ready(ModelEdits(table(tmp_path, ROWS), max_rows=2))
    assert [texts(p) for p, _ in data.editing_examples()["reliability"]] == ["p0 is", "p1 is"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": " "}, r"row 3, target: ' '"),
        ({"locality": 7}, r"row 3, locality: 7"),
        ({"paraphrase": None}, r"paraphrase"),
        ({"prompt": "p0 is"}, r"rows 1 and 3: 'p0 is' -> ' t0' and ' t2'"),
        ({"prompt": "p" * 40}, r"44 tokens of row 3"),
    ],
)
def test_rows_that_cannot_be_learned_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [{**row, **(change if number == 2 else {})} for number, row in enumerate(ROWS)]
    with pytest.raises(ConfigError, match=message):
        ready(ModelEdits(table(tmp_path, rows), max_length=32))


def test_one_edit_may_stand_twice(tmp_path: Path) -> None:
    assert len(ready(ModelEdits(table(tmp_path, [ROWS[0], ROWS[0]]))).editing_examples()["reliability"]) == 2


def test_bad_arguments() -> None:
    for arguments in ({"order": "deep"}, {"passes": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            ModelEdits("edits.jsonl", **arguments)  # type: ignore[arg-type]
    for arguments in ({"edits": 0}, {"edits": 20, "facts": 20}, {"facts": 20_000}):
        with pytest.raises(ConfigError):
            FactEdits(**arguments)
    with pytest.raises(ConfigError, match="10,125"):
        KnownFacts(facts=1)


def test_edits_are_of_known_facts_and_locality_is_about_others() -> None:
    known, edits = ready(KnownFacts(30)), ready(FactEdits(edits=20, facts=30))
    said = {row["prompt"]: row["target"] for row in known._tables()["train"]}
    assert len(said) == 60  # two wordings, no fact twice
    rows = edits.edits()
    edited = {row[way] for row in rows for way in ("prompt", "paraphrase")}
    assert len(edited) == 40
    for row in rows:
        assert said[row["prompt"]] == said[row["paraphrase"]] != row["target"]
        assert row["locality"] in said
        assert row["locality"] not in edited
    assert len({row["locality"] for row in rows}) == 10  # all that are left take turns
    strangers = FactEdits(edits=30, facts=None).edits()
    assert [row["prompt"] for row in strangers] == [f.asked() for f in invented_facts(30)]
    assert len({row["locality"] for row in strangers}) == 24


def test_facts_are_drawn_from_their_seed() -> None:
    assert invented_facts(9, 1) == invented_facts(9, 1) != invented_facts(9, 2)
    assert len({fact.subject for fact in invented_facts(9)}) == 3
