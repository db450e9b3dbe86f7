"""What rows of the layouts that people have read and learn, with the real tokenizer and its chat template."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions, StreamedInstructions, ToolConversations
from lit_ft.models.byte_tokenizer import byte_tokenizer

FILES = Path(__file__).parents[1] / "sources" / "layouts"
EXPECTED = json.loads((FILES / "expected.json").read_text())
CHAT = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI"
    " assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}
BRIEF = {"role": "system", "content": "Be brief."}
BRIEFLY = "<system\nBe brief.><user\nHi><assistant"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def tokenizer() -> Any:
    """Bytes with the chat template and the end of turn of the model that the expectations were written for."""
    words = byte_tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "eos_token": "<|im_end|>"})
    words.chat_template = CHAT
    return words


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def ready(path: Path | str, kind: type = Instructions, **arguments: Any) -> Any:
    data = kind(str(path), **{"val_fraction": 0.0, "max_length": 2048, **arguments})
    data.tokenizer = tokenizer()
    data.setup("fit")
    return data


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def parts(data: Any, row: int = 0) -> tuple[list[str], list[str]]:
    """The pieces of a row that are read, and those that are learned, in their order."""
    table = data.examples["train"]
    example = table[table.rows.tolist().index(data.numbers["train"].index(row + 1))]
    ids, marks = example["input_ids"].tolist(), (example["weights"] != 0).tolist()
    pieces: dict[bool, list[list[int]]] = {False: [], True: []}
    for place, (token, mark) in enumerate(zip(ids, marks, strict=True)):
        if not place or mark != marks[place - 1]:
            pieces[mark].append([])
        pieces[mark][-1].append(token)
    read, learned = ([data.tokenizer.decode(piece) for piece in pieces[mark]] for mark in (False, True))
    return [piece for piece in read if piece.strip()], learned  # the line break behind the last turn is no piece


def words(*rows: Any, folder: Path, **arguments: Any) -> tuple[str, list[str]]:
    """All that is read of the first row, and what is learned, without the words of the template."""
    read, learned = parts(ready(written(folder, *rows), **arguments))
    text = "...".join(read).replace("<|im_start|>", "<").replace("<|im_end|>\n", ">").replace("<|im_end|>", ">")
    text = text.replace("<system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face>", "")
    return text.strip(), [piece.replace("<|im_end|>", ">") for piece in learned]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("alpaca.json", {}), ("sharegpt.json", {}), ("prompt_response.jsonl", {"chat": True})],
)
def test_the_files_of_others_read_as_they_are_meant(name: str, arguments: dict[str, Any]) -> None:
    data, expected = ready(FILES / name, **arguments), EXPECTED[name]
    read, learned = parts(data)
    assert learned == expected["learned"]
    assert read == expected["read"]
    if "row_1" in expected:
        assert parts(data, 1)[0][0].endswith(expected["row_1"]["read_ends_with"])
    whole = "".join(read + learned)
    assert not any(word in whole for word in ("human", "gpt", "<|im_end|><|im_end|>"))


def test_without_a_chat_prompt_and_response_are_prompt_and_completion() -> None:
    expected = EXPECTED["prompt_response.jsonl"]["without_chat"]
    assert parts(ready(FILES / "prompt_response.jsonl")) == (expected["read"], expected["learned"])


def test_calls_of_tools_are_for_tool_conversations() -> None:
    expected = EXPECTED["tool_messages.jsonl"]
    read, learned = parts(ready(FILES / "tool_messages.jsonl", ToolConversations))
    assert learned == expected["learned"]
    assert [piece.lstrip("\n") for piece in read[1:]] == expected["read"][1:]
    assert read[0].startswith(expected["read"][0].partition(" ... ")[0].removesuffix(","))
    with pytest.raises(ConfigError, match=r"row 1 has tools.*ToolConversations"):
        ready(FILES / "tool_messages.jsonl")


@pytest.mark.parametrize(
    ("row", "read", "learned"),
    [
        ({"instruction": "Add.", "input": "1", "output": "2"}, "<user\nAdd.\n1><assistant", ["2>"]),
        ({"instruction": "Hi", "output": "Yo", "system": "Be brief."}, BRIEFLY, ["Yo>"]),
        ({"instruction": "", "input": "Hi", "output": "Yo"}, "<user\nHi><assistant", ["Yo>"]),
        ({"instruction": "Hi", "context": "A.", "response": "Yo"}, "<user\nHi\nA.><assistant", ["Yo>"]),
        ({"instruction": "And?", "input": None, "output": "Go", "history": [["Hi", "Yo"]]},
         "<user\nHi><assistant\n...\n<user\nAnd?><assistant", ["Yo>", "Go>"]),
        ({"system": "Be brief.", "question": "Hi", "response": "Yo"}, BRIEFLY, ["Yo>"]),
        ({"system_prompt": "", "question": "Hi", "answer": "Yo"}, "Hi", ["Yo>"]),
        ({"question": "Hi", "context": "A.", "answer": "Yo"}, "Hi\nA.", ["Yo>"]),
        ({"input": "Hi", "output": "Yo"}, "Hi", ["Yo>"]),
        ({"query": "Hi", "response": 12}, "Hi", ["12>"]),
        ({"problem": "Hi", "solution": "Yo", "source": "x"}, "Hi", ["Yo>"]),
        ({"prompt": [ASK], "completion": [REPLY]}, "<user\nHi><assistant", ["Yo>"]),
        ({"prompt": [ASK], "response": "Yo"}, "<user\nHi><assistant", ["Yo>"]),
        ({"prompt": "Hi", "completion": [REPLY]}, "<user\nHi><assistant", ["Yo>"]),
        ({"prompt": "Hi", "completion": [ASK, REPLY]}, "<user\nHi><assistant", ["Yo>"]),
        ({"prompt": [ASK, REPLY, ASK], "completion": [ASK, REPLY, ASK, REPLY]},
         "<user\nHi><assistant\nYo><user\nHi><assistant", ["Yo>"]),
        ({"prompt": "Hi", "system": "Be brief.", "completion": [ASK, REPLY]}, BRIEFLY, ["Yo>"]),
        ({"prompt": "Hi", "completion": REPLY}, "<user\nHi><assistant", ["Yo>"]),
        ({"prompt": [ASK, REPLY, ASK], "completion": [REPLY]},
         "<user\nHi><assistant\nYo><user\nHi><assistant", ["Yo>"]),
        ({"messages": [ASK, REPLY], "prompt": "Hi", "prompt_id": 1}, "<user\nHi><assistant", ["Yo>"]),
        ({"messages": [ASK, REPLY], "system": "Be brief."}, BRIEFLY, ["Yo>"]),
        ({"messages": [BRIEF, ASK, REPLY], "system": "Be brief."}, BRIEFLY, ["Yo>"]),
        ({"messages": [{**ASK, "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, REPLY]},
         "<user\nHi><assistant", ["Yo>"]),
        ({"messages": [{"role": "prompter", "text": "Hi"}, {"role": "assistant", "text": "Yo"}]},
         "<user\nHi><assistant", ["Yo>"]),
        ({"messages": [{**REPLY, "weight": None}, ASK, {**REPLY, "train": False}, REPLY]},
         "<assistant\n...\n<user\nHi><assistant\nYo><assistant", ["Yo>", "Yo>"]),
        ({"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT], "tools": "[]"},
         BRIEFLY, ["Yo>"]),
        ({"conversation": [{"input": "Hi", "output": "Yo"}]}, "<user\nHi><assistant", ["Yo>"]),
        ({"messages": str([ASK, {**REPLY, "weight": None}])}, "<user\nHi><assistant", ["Yo>"]),
        ({"conversations": ["Hi", "Yo"], "source": "x"}, "<user\nHi><assistant", ["Yo>"]),
        ({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Yo"}]}]},
         "<user\nHi><assistant", ["Yo>"]),
        ({"problem": "Hi", "solution": "Yo", "answer": "Y"}, "Hi", ["Yo>"]),
        ({"prompt": "Hi", "completion": "Yo", "answer": 3}, "Hi", ["Yo>"]),
        ({"prompt": "Hi", "answer": "Yo"}, "Hi", ["Yo>"]),
        ({"text": "Hi", "title": "x"}, "H", ["i>"]),
        ({"instruction": "Hi", "input": "", "output": "Yo", "text": "### Instruction:\nHi\n\n### Response:\nYo "},
         "<user\nHi><assistant", ["Yo>"]),
        ({"instruction": "Add.", "input": "1", "output": "2", "text": "Do: Add.\nTo: 1\nIt is 2"},
         "<user\nAdd.\n1><assistant", ["2>"]),
        ({"prompt": "Hi", "completion": " Yo", "text": "Hi Yo"}, "Hi", [" Yo>"]),
        ({"messages": [ASK, REPLY], "text": "<user>Hi<bot>Yo"}, "<user\nHi><assistant", ["Yo>"]),
    ],
)  # fmt: skip
def test_rows_read_by_what_they_are(row: Any, read: str, learned: list[str], tmp_path: Path) -> None:
    assert words(row, folder=tmp_path) == (read, learned)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"instruction": "a", "output": "b", "text": "c"}, "instruction/output or text: both fit row 1"),
        ({"instruction": "a", "input": "d", "output": "b", "text": "ab"}, "instruction/input/output or text: both fit"),
        ({"messages": [ASK, REPLY], "prompt": "a", "completion": "b"}, "messages or prompt/completion: both fit"),
        ({"question": "a", "answer": "b", "response": "c"}, "question/response or question/answer: both fit"),
        ({"prompt": "a", "completion": "b", "images": ["a.png"]}, "row 1 has images"),
        ({"text": "b", "image": {"path": "a.png"}}, "row 1 has image"),
        ({"text": "Hi", "role": "prompter", "message_id": "a"}, "row 1 has role"),
        ({"messages": [ASK, REPLY], "context": "c"}, "row 1 has context.*--data.layout messages"),
        ({"messages": [ASK, REPLY], "tools": [TOOL]}, "row 1 has tools.*ToolConversations"),
        ({"messages": [ASK, REPLY], "functions": json.dumps([TOOL])}, "row 1 has functions.*ToolConversations"),
        ({"messages": [ASK, {**REPLY, "content": "", "tool_calls": [{"name": "look"}]}]}, "ToolConversations"),
        ({"messages": [ASK, {**REPLY, "content": "", "function_call": {"name": "look"}}]}, "ToolConversations"),
        ({"conversations": [HUMAN, {"from": "function_call", "value": '{"name": "look"}'}]}, "ToolConversations"),
        ({"messages": [ASK, REPLY], "label": False}, "row 1 has label.*only: label.*UnpairedPreferences"),
        ({"prompt": "a", "completion": "b", "label": 0}, "row 1 has label.*UnpairedPreferences"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "for Preferences"),
        ({"messages": [BRIEF, ASK, REPLY], "system": "Be long."}, "one system message: row 1"),
        ({"messages": [{**ASK, "content": [{"type": "image_url"}]}, REPLY]}, "parts that are texts, in row 1"),
        ({"ask": "a", "reply": "b"}, r"--data\.prompt ask --data\.completion reply; or --data\.template '\["),
        ({"id": "x", "ask": "What?", "title": "y", "reply": "Yo, so."}, r"--data\.prompt ask --data\.completion reply"),
        ({"line": "a"}, r"--data\.template '\[{text: \"{line}{eos}\", role: assistant, weight: 1}\]'"),
        ({"prompt": "a", "completion": float("nan")}, r"row 1 has prompt, completion \(empty\)"),
        ({"text": float("nan")}, r"row 1 has text \(empty\)"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(row: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ready(written(tmp_path, row, row))


def test_the_template_of_a_refusal_reads_the_rows(tmp_path: Path) -> None:
    """What a message shows can be copied."""
    import yaml

    row = {"ask": "Hi", "reply": "Yo"}
    with pytest.raises(ConfigError) as caught:
        ready(written(tmp_path, row))
    template = str(caught.value).partition("--data.template '")[2].rstrip("'")
    assert words(row, folder=tmp_path, template=yaml.safe_load(template), chat=False) == ("Hi", ["Yo>"])
    assert words(row, folder=tmp_path, prompt="ask", completion="reply") == ("Hi", ["Yo>"])


def test_layouts_and_columns_are_named(tmp_path: Path) -> None:
    row = {"instruction": "Hi", "input": "A.", "output": "Yo", "text": "Hi Yo", "mood": "Be brief.", "more": "B."}
    assert words(row, folder=tmp_path, layout="instruction/input/output")[0] == "<user\nHi\nA.><assistant"
    assert words(row, folder=tmp_path, layout="output/instruction")[0] == "<user\nHi><assistant"
    assert words(row, folder=tmp_path, layout="text") == ("H", ["i Yo>"])
    named = {"prompt": "instruction", "completion": "output"}
    assert words(row, folder=tmp_path, **named) == ("Hi\nA.", ["Yo>"])
    assert words(row, folder=tmp_path, chat=True, **named) == ("<user\nHi\nA.><assistant", ["Yo>"])
    brief = {"prompt": "input", "completion": "text", "system": "mood", "context": "more"}
    assert words(row, folder=tmp_path, **brief) == ("<system\nBe brief.><user\nA.\nB.><assistant", ["Hi Yo>"])
    for arguments, complaint in (
        ({"layout": "instruction/outputs"}, "did you mean 'instruction/output'"),
        ({"layout": "question/answer"}, "layout: given '(question|answer)'; allowed: a column of "),
        ({"prompt": "instruction"}, "completion: given None"),
        ({"prompt": "instruction", "completion": "outputs"}, "completion: given 'outputs'.*did you mean 'output'"),
        ({**named, "system": "moood"}, "system: given 'moood'.*did you mean 'mood'"),
        ({**named, "layout": "text"}, "null beside prompt and completion"),
        (
            {**named, "template": [{"text": "{text}", "weight": 1}]},
            "template: .* null where columns or a layout are named",
        ),
    ):
        with pytest.raises(ConfigError, match=complaint):
            words(row, folder=tmp_path, **arguments)


def test_a_line_says_how_a_table_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("lit_ft.sources.layouts.say", said.append)
    ready(FILES / "alpaca.json")
    assert said.pop() == f"{FILES / 'alpaca.json'}: read as instruction/input/output; --data.layout names another"
    ready(written(tmp_path, {"question": "a", "choices": ["b", "c"], "answer": "b", "id": 3}))
    assert said.pop().endswith("read as question/answer; --data.layout names another; not read: choices, id")


def test_a_column_that_is_filled_somewhere_is_read_alike_everywhere(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "system": ""}, {"prompt": "c", "response": "d", "system": "Be brief."}]
    data = ready(written(tmp_path, *rows))
    assert parts(data, 0)[0][0].endswith("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert parts(data, 1)[0][0].startswith("<|im_start|>system\nBe brief.<|im_end|>")


@pytest.mark.parametrize("rows", [
    [{"instruction": "Hi", "input": "A.", "output": "Yo"}, {"instruction": "And?", "output": "Go"}],
    [{"messages": [ASK, {**REPLY, "weight": 0.5}]}, {"messages": [REPLY, ASK, REPLY]}],
    [{"messages": [{**ASK, "content": [{"type": "text", "text": "Hi"}]}, {**REPLY, "content": [{"text": "Yo"}]}]}],
    [{"prompt": "Hi", "completion": "Yo"}, {"text": "Hi"}, {"messages": [ASK, REPLY]}],
    [{"conversations": [HUMAN, GPT]}, {"conversations": [HUMAN, GPT], "system": "Be brief."}],
])  # fmt: skip
def test_the_same_rows_in_any_file_give_the_same_tokens(rows: Any, tmp_path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([cell if isinstance(cell := row.get(name, ""), str) else json.dumps(cell) for name in names]
                         for row in rows)  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), tmp_path / "rows.parquet"
    )
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    paths = [written(tmp_path, *rows), tmp_path / "rows.json", tmp_path / "rows.parquet", tmp_path / "rows.csv"]
    if len(names) > 3:
        paths.pop()  # an empty cell is an empty text there
    found = [ready(path) for path in paths]
    for data in found[1:]:
        assert [parts(data, n) for n in range(len(rows))] == [parts(found[0], n) for n in range(len(rows))]


CALL = {"name": "look", "arguments": {"city": "Paris"}}
RAIN = {"role": "tool", "content": "rain"}
TOOL_ROW = {
    "messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}, RAIN, REPLY],
    "tools": [{"name": "look"}, {"name": "count"}],
}


@pytest.mark.parametrize(
    "row",
    [
        {**TOOL_ROW, "tools": json.dumps(TOOL_ROW["tools"])},
        {"messages": TOOL_ROW["messages"], "functions": TOOL_ROW["tools"]},
        {"conversations": [HUMAN, {"from": "function_call", "value": json.dumps(CALL)},
                           {"from": "observation", "value": "rain"}, GPT], "tools": json.dumps(TOOL_ROW["tools"])},
        {"messages": [ASK, {"role": "assistant", "content": None,
                            "function_call": {"name": "look", "arguments": '{"city": "Paris"}'}},
                      {"role": "function", "content": "rain"}, REPLY], "functions": TOOL_ROW["tools"]},
    ],
)  # fmt: skip
def test_conversations_with_tools_are_one(row: Any, tmp_path: Path) -> None:
    assert parts(ready(written(tmp_path, row), ToolConversations)) == parts(
        ready(written(tmp_path, TOOL_ROW), ToolConversations)
    )


def test_tools_are_listed_once(tmp_path: Path) -> None:
    system = {"role": "system", "content": f"<tools>{json.dumps(TOOL_ROW['tools'])}</tools>"}
    row = {**TOOL_ROW, "messages": [system, *TOOL_ROW["messages"]]}
    with pytest.raises(
        ConfigError, match=r"list_tools: given True; allowed: false where the messages list tools, .* row 1"
    ):
        ready(written(tmp_path, row), ToolConversations)
    assert "".join(parts(ready(written(tmp_path, row), ToolConversations, list_tools=False))[0]).count('"count"') == 1


def test_arrow_adds_no_arguments_to_a_call(tmp_path: Path) -> None:
    """Two tools with different arguments: Parquet gives each those of both, without a value."""
    rows = []
    for name, arguments in (("look", {"city": "Paris"}), ("count", {"ticker": "X"})):
        calls = [{"name": name, "arguments": arguments}]
        rows.append({**TOOL_ROW, "messages": [ASK, {"role": "assistant", "content": "", "tool_calls": calls}]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [ready(path, ToolConversations) for path in (written(tmp_path, *rows), tmp_path / "rows.parquet")]
    for row in range(2):
        assert parts(found[0], row) == parts(found[1], row)
    assert '"arguments": {"city": "Paris"}}' in parts(found[1])[1][0]


def test_a_stream_reads_as_a_table_does(tmp_path: Path) -> None:
    path = written(tmp_path, *[{"instruction": "Hi", "input": "A." * (i % 2), "output": f"Yo{i}"} for i in range(8)])
    stream = StreamedInstructions(str(path), epoch_batches=2, batch_size=4, buffer=4, max_length=2048)
    stream.tokenizer = tokenizer()
    stream.setup("fit")
    seen = {stream.tokenizer.decode(ids[mask.bool()]) for batch in stream.train_dataloader()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)}  # fmt: skip
    data = ready(path)
    assert seen == {"".join(data.tokenizer.decode(data.examples["train"][i]["input_ids"])) for i in range(8)}


def test_a_base_model_without_a_chat_template_has_a_way(tmp_path: Path) -> None:
    path = written(tmp_path, {"instruction": "Hi", "input": "A.", "output": "Yo"})
    data = Instructions(str(path), val_fraction=0.0)
    data.tokenizer = tokenizer()
    data.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"--data\.prompt instruction --data\.completion COLUMN"):
        data.setup("fit")
