"""What rows of the layouts that people have for preferences read and learn; the prompt stands in them once."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import Preferences, UnpairedPreferences
from tests.language.test_layouts import ASK, BRIEF, EXPECTED, FILES, REPLY, tokenizer, written

HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}
GO = {"role": "assistant", "content": "Go"}
OTHER = {"role": "user", "content": "And?"}
PROMPT = "<user\nHi><assistant\n"
BRIEFLY = "<system\nBe brief.><user\nHi><assistant\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def ready(path: Path | str, kind: type = Preferences, **arguments: Any) -> Any:
    data = kind(str(path), **{"val_fraction": 0.0, "max_length": 2048, "chat": None, **arguments})
    data.tokenizer = tokenizer()
    data.setup("fit")
    return data


def short(text: str) -> str:
    """A text without the words of the template."""
    bare = text.replace("<|im_start|>", "<").replace("<|im_end|>\n", ">").replace("<|im_end|>", ">")
    return bare.replace("<system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face>", "")


def said(data: Any, place: int) -> tuple[str, str]:
    """What is read and what is learned of an example, by its place in the table of rows."""
    table = data.examples["train"]
    example = table[table.rows.tolist().index(place)]
    first = int((example["weights"] != 0).nonzero()[0])
    parts = (data.tokenizer.decode(ids) for ids in (example["input_ids"][:first], example["input_ids"][first:]))
    read, learned = map(short, parts)
    return read, learned.strip()


def pair(data: Any, row: int = 0) -> tuple[str, str, str]:
    place = data.numbers["train"].index(row + 1)
    (read, chosen), (again, rejected) = said(data, 2 * place), said(data, 2 * place + 1)
    assert read == again
    return read, chosen, rejected


def test_the_file_of_others_reads_as_it_is_meant() -> None:
    expected = EXPECTED["preference_sharegpt.json"]
    read, chosen, rejected = pair(ready(FILES / "preference_sharegpt.json"))
    assert [read.replace(">", "<|im_end|>\n").replace("<user", "<|im_start|>user").replace("<sys", "<|im_start|>sys")
            .replace("<ass", "<|im_start|>ass")] == expected["read"]  # fmt: skip
    assert [f"chosen: {chosen}", f"rejected: {rejected}"] == [
        text.replace("<|im_end|>", ">") for text in expected["learned"]
    ]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi", "chosen": [ASK, REPLY], "rejected": [ASK, GO]}, PROMPT),
        ({"prompt": "Hi ", "chosen": [ASK, REPLY], "rejected": [ASK, GO]}, PROMPT),
        ({"prompt": [ASK], "chosen": [ASK, REPLY], "rejected": [ASK, GO]}, PROMPT),
        ({"prompt": [ASK], "chosen": [ASK, REPLY], "rejected": [GO]}, PROMPT),
        ({"prompt": "Hi", "chosen": [BRIEF, ASK, REPLY], "rejected": [BRIEF, ASK, GO]}, BRIEFLY),
        ({"prompt": "Hi", "system": "Be brief.", "chosen": [ASK, REPLY], "rejected": [ASK, GO]}, BRIEFLY),
        ({"prompt": [BRIEF, ASK], "chosen": [ASK, REPLY], "rejected": [BRIEF, ASK, GO]}, BRIEFLY),
        ({"prompt": "Hi", "chosen": [OTHER, GO, ASK, REPLY], "rejected": [OTHER, GO, ASK, GO]},
         "<user\nAnd?><assistant\nGo><user\nHi><assistant\n"),
        ({"prompt": "Hi", "chosen": [ASK, REPLY], "rejected": [ASK, GO], "messages": [ASK, REPLY], "score_chosen": 9},
         PROMPT),
        ({"prompt": "Hi", "chosen": [REPLY], "rejected": [GO]}, PROMPT),
        ({"prompt": "Hi", "chosen": REPLY, "rejected": {"from": "gpt", "value": "Go"}}, PROMPT),
        ({"prompt": "Hi", "chosen": [REPLY], "rejected": "Go"}, PROMPT),
        ({"prompt": [ASK], "chosen": "Yo", "rejected": "Go"}, PROMPT),
        ({"prompt": "Hi", "chosen": "Yo", "rejected": "Go"}, PROMPT),
        ({"question": "Hi", "chosen": "Yo", "rejected": "Go", "system": "Be brief."}, BRIEFLY),
        ({"question": "Hi", "chosen": "Yo", "rejected": "Go", "system": ""}, PROMPT),
        ({"input": "Hi", "chosen": "Yo", "rejected": "Go"}, PROMPT),
        ({"instruction": "Hi", "input": "", "chosen": "Yo", "rejected": "Go"}, PROMPT),
        ({"prompt": "Hi", "chosen_response": "Yo", "rejected_response": "Go"}, PROMPT),
        ({"input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
          "preferred_output": [REPLY], "non_preferred_output": [GO]}, PROMPT),
        ({"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "Go"}}, PROMPT),
        ({"messages": [ASK], "chosen": REPLY, "rejected": GO}, PROMPT),
        ({"chosen": [ASK, REPLY], "rejected": [ASK, GO]}, PROMPT),
        ({"chosen": [HUMAN, GPT], "rejected": [HUMAN, {"from": "gpt", "value": "Go"}], "system": "Be brief."}, BRIEFLY),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}, PROMPT),
    ],
)  # fmt: skip
def test_pairs_read_by_what_they_are(row: Any, prompt: str, tmp_path: Path) -> None:
    assert pair(ready(written(tmp_path, row))) == (prompt, "Yo>", "Go>")
    if isinstance(row.get("input", ""), str) and isinstance(row.get("rejected"), type(row.get("chosen"))):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
        assert pair(ready(tmp_path / "rows.parquet")) == (prompt, "Yo>", "Go>")
    other = {"prompt": "What?", "completion": "So.", "label": True}
    unpaired = ready(written(tmp_path, row, other), UnpairedPreferences)
    labels = {said(unpaired, place)[1]: label for place, label in enumerate(unpaired.labels["train"])}
    assert labels == {"Yo>": True, "Go>": False, "So.>": True}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "Hi", "chosen": [OTHER, REPLY], "rejected": [OTHER, GO]},
         "a conversation with the prompt in it, in train row 1"),
        ({"chosen": "Yo", "rejected": "Go"}, "a prompt beside chosen and rejected, .*; see row 1"),
        ({"prompt": "Hi", "chosen": "Yo"}, "rows with prompt, chosen and rejected"),
        ({"ask": "Hi", "good": "Yo", "bad": "Go"}, r"--data\.prompt, --data\.chosen and --data\.rejected"),
        ({"prompt": "Hi", "chosen": "Yo", "rejected": float("nan")}, r"rejected \(empty\)"),
        ({"prompt": "Hi", "chosen": "Yo", "rejected": "Go", "images": ["a.png"]}, "row 1 has images"),
        ({"prompt": "Hi", "question": "Ho", "chosen": "Yo", "rejected": "Go"},
         "prompt/chosen/rejected or question/chosen/rejected: both fit row 1"),
        ({"input": {"messages": [ASK], "tools": [{"name": "look"}]}, "preferred_output": [REPLY],
          "non_preferred_output": [GO]}, "no tools here; row 1"),
    ],
)  # fmt: skip
def test_pairs_that_are_not_read_are_refused_by_name(row: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ready(written(tmp_path, row, row))


def test_columns_of_pairs_are_named(tmp_path: Path) -> None:
    row = {"ask": "Hi", "good": "Yo", "bad": "Go", "mood": "Be brief."}
    named = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    assert pair(ready(written(tmp_path, row), **named)) == (PROMPT, "Yo>", "Go>")
    assert pair(ready(written(tmp_path, row), **named, system="mood")) == (BRIEFLY, "Yo>", "Go>")
    row = {"prompt": "Hi", "question": "Ho", "chosen": "Yo", "rejected": "Go"}
    assert pair(ready(written(tmp_path, row), layout="prompt/chosen/rejected")) == (PROMPT, "Yo>", "Go>")
    with pytest.raises(ConfigError, match="rejected: given None"):
        ready(written(tmp_path, row), prompt="prompt", chosen="chosen")


def test_the_last_turn_of_a_marked_conversation_is_the_answer() -> None:
    data = ready(FILES / "kto_messages.json", UnpairedPreferences)
    place = data.numbers["train"].index(1)
    (read, learned), expected = said(data, place), EXPECTED["kto_messages.json"]
    assert ([read], [learned]) == ([short(t) for t in expected["read"]], [short(t) for t in expected["learned"]])
    assert data.labels["train"][place] is expected["desirable"] is True


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "Hi", "completion": "Yo", "label": True}, True),
        ({"prompt": [ASK], "completion": [REPLY], "label": 0}, False),
        ({"prompt": [ASK], "completion": REPLY, "label": "false"}, False),
        ({"prompt": "Hi", "completion": [ASK, REPLY], "label": True}, True),
        ({"prompt": [ASK], "completion": [ASK, REPLY], "label": True}, True),
        ({"question": "Hi", "answer": "Yo", "label": 1.0}, True),
        ({"instruction": "Hi", "input": "", "output": "Yo", "kto_tag": False}, False),
        ({"conversations": [HUMAN, GPT], "label": True}, True),
        ({"conversations": [HUMAN, GPT], "kto_tag": True}, True),
    ],
)
def test_marked_answers_read_by_what_they_are(row: Any, label: bool, tmp_path: Path) -> None:
    other = {"messages": [OTHER, GO], "label": True}
    data = ready(written(tmp_path, row, other), UnpairedPreferences)
    place = data.numbers["train"].index(1)
    assert said(data, place) == (PROMPT, "Yo>")
    assert data.labels["train"][place] is label


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": [ASK, REPLY, OTHER], "label": True}, "the assistant's turn at the end, .* in row 1"),
        ({"messages": [ASK, REPLY]}, "row 1 has messages.*messages and label"),
        ({"prompt": "Hi", "completion": "Yo"}, "rows with prompt, completion and label"),
        ({"prompt": "Hi", "completion": "Yo", "label": True, "context": None, "image": "a.png"}, "row 1 has image"),
    ],
)
def test_marked_answers_that_are_not_read_are_refused(row: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ready(written(tmp_path, row, row), UnpairedPreferences)


def test_columns_of_marked_answers_are_named(tmp_path: Path) -> None:
    rows = [{"ask": "Hi", "reply": "Yo", "good": 1}, {"ask": "And?", "reply": "Go", "good": 0}]
    data = ready(written(tmp_path, *rows), UnpairedPreferences, prompt="ask", completion="reply", label="good")
    place = data.numbers["train"].index(1)
    assert said(data, place) == (PROMPT, "Yo>")
    assert data.labels["train"][place] is True


def test_nan_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected\nHi,Yo,Go\nHo,nan,Go\n")
    with pytest.raises(ConfigError, match=r"row 2 has prompt, chosen \(empty\), rejected"):
        ready(tmp_path / "rows.csv")


def test_prompts_that_answers_repeat_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "Hi Yo", "rejected": "Hi Go"},
        {"prompt": "Hi", "chosen": "Hi Yo", "rejected": "Go"},
    ]
    with pytest.warns(UserWarning, match="1 train rows have a prompt with which both answers begin.*: rows 1"):
        ready(written(tmp_path, *rows))
