"""Conversations with tools: weights counted by hand, failed turns, calls in several forms, rows that are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import ToolConversations, ToolQuestions, ToolTraces
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens.losses import shares
from lit_ft.worlds.tool_traces import TOOLS

LLAMA = {"config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "attention_dropout": 0.2, "tokenizer": "bytes"}}  # fmt: skip
TWO = [{"name": "get_a"}, {"name": "get_b"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "get_a", "arguments": {}}]}
ROW = {
    "messages": [
        {"role": "user", "content": "go"},
        CALL,
        {"role": "tool", "content": "Error: Invalid API call."},
        CALL,
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "seven"},
    ],
    "tools": TWO,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def prepared(folder: Path, rows: list[dict[str, Any]], **arguments: Any) -> ToolConversations:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = ToolConversations(str(path), val_fraction=0.0, batch_size=len(rows), **arguments)
    return attached(data)


def attached(data: Any) -> Any:
    data.trainer = type("T", (), {"lightning_module": type("M", (), {"tokenizer": byte_tokenizer()})()})()
    data.setup("fit")
    return data


def pieces(data: ToolConversations) -> list[tuple[str, float]]:
    """Neighbouring tokens of one weight of the first row, as text; those of weight 0 are left out."""
    batch = next(iter(data.train_dataloader()))
    found: list[tuple[list[int], float]] = []
    for token, weight in zip(batch["input_ids"][0].tolist(), batch["weights"][0].tolist(), strict=True):
        if not found or found[-1][1] != weight:
            found.append(([], weight))
        found[-1][0].append(token)
    return [(data.tokenizer.decode(ids), weight) for ids, weight in found if weight]


def test_weights_by_hand(tmp_path: Path) -> None:
    """Of a call's targets, ``g`` and ``a`` choose: some thirty others for each are more than 9. The answer weighs 1."""
    call = '<tool_call>\n{"name": "get_a", "arguments": {}}\n</tool_call>'
    before, behind = call.split("get_a")
    expected = [(before, 1), ("g", 9), ("et_", 1), ("a", 9), (f"{behind}</s>", 1), ("seven</s>", 1)]
    assert pieces(prepared(tmp_path, [ROW])) == expected
    assert pieces(prepared(tmp_path, [ROW], max_weight=4.0))[1] == ("g", 4)


def test_answers_of_two_tools_stay_two_messages(tmp_path: Path) -> None:
    calls = [{"name": "get_a", "arguments": {}}, {"name": "get_b", "arguments": {}}]
    answers = [{"role": "tool", "content": "Paris: 20"}, {"role": "tool", "content": "Rome: 30"}]
    asked = {"role": "user", "content": "go"}
    last = {"role": "assistant", "content": "Rome."}
    messages = [asked, {**CALL, "tool_calls": calls}, *answers, last]
    data = prepared(tmp_path, [{"messages": messages, "tools": TWO}], list_tools=False)
    called = "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in ("get_a", "get_b")
    )
    plain = [asked, {"role": "assistant", "content": called}, *answers, last]
    ids = next(iter(data.train_dataloader()))["input_ids"][0]
    assert ids.tolist() == data.tokenizer.apply_chat_template(plain, return_dict=False)


def test_values_of_arguments_have_their_own_weight(tmp_path: Path) -> None:
    """Not those of a call that failed."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "get_a", "arguments": {"x": 12, "y": "z"}}]}
    said = [{"role": "user", "content": "go"}, call, {"role": "tool", "content": "Invalid API call"}, call,
            {"role": "tool", "content": "7"}]  # fmt: skip
    row = {"messages": said, "tools": TWO}
    found = pieces(prepared(tmp_path, [row], max_weight=1.0, argument_weight=2.5))
    assert [text for text, weight in found if weight == 2.5] == ["12", '"z"']
    assert {weight for _, weight in found} == {1.0, 2.5}


def test_more_branches_than_a_ninth(tmp_path: Path) -> None:
    """Names that part at each of ten bytes: w = (length - 10) / 10, the end of the turn counted."""
    name = "abcdefghij"
    tools = [{"name": name}, *({"name": name[:i] + "x"} for i in range(1, 10))]
    message = {"role": "assistant", "tool_calls": [{"name": name, "arguments": {}}]}
    found = pieces(prepared(tmp_path, [{"messages": [{"role": "user", "content": "go"}, message], "tools": tools}]))
    length = len('<tool_call>\n{"name": "abcdefghij", "arguments": {}}\n</tool_call>') + 1
    assert found[1] == (name, pytest.approx((length - 10) / 10))


def test_without_weights_and_filter_it_is_plain_fine_tuning(tmp_path: Path) -> None:
    data = prepared(tmp_path, [ROW], max_weight=1.0, error_signs=[])
    found = pieces(data)
    assert [weight for _, weight in found] == [1, 1, 1]
    assert found[0] == found[1]
    weights = next(iter(data.train_dataloader()))["weights"]
    assert shares(weights)[1] == (weights != 0).sum()


def test_forms_of_a_call_give_the_same_tokens(tmp_path: Path) -> None:
    def row(call: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": "go"}, message], "tools": tools}

    inner = {"name": "get_a", "arguments": {"x": 1}}
    openai = {"id": "1", "type": "function", "function": {"name": "get_a", "arguments": '{"x": 1}'}}
    rows = [row(inner, TWO), row(openai, [{"type": "function", "function": tool} for tool in TWO])]
    table = prepared(tmp_path, rows).examples["train"]
    assert table[0]["input_ids"].tolist() == table[1]["input_ids"].tolist()
    assert table[0]["weights"].tolist() == table[1]["weights"].tolist()


def test_tools_are_listed_in_the_system_message(tmp_path: Path) -> None:
    row = {**ROW, "messages": [{"role": "system", "content": "Be brief."}, *ROW["messages"]]}
    listed = 'Tools:\n{"name": "get_a"}\n{"name": "get_b"}'
    for number, (given, arguments, begin) in enumerate([
        (ROW, {}, f"<s>system\n{listed}</s>"),
        (row, {}, f"<s>system\nBe brief.\n{listed}</s>"),
        (row, {"list_tools": False}, "<s>system\nBe brief.</s>"),
    ]):  # fmt: skip
        data = prepared(tmp_path, [given], **arguments)
        assert data.tokenizer.decode(data.examples["train"][0]["input_ids"]).startswith(begin), number


def changed(**last: Any) -> list[dict[str, Any]]:
    message = {"role": "assistant", "content": "", **last}
    return [ROW, {"messages": [{"role": "user", "content": "go"}, message], "tools": TWO}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(tool_calls=[{"name": "get_c", "arguments": {}}]), "get_c.*a tool of row 2: get_a, get_b"),
        (changed(tool_calls=[{"name": "get_a", "arguments": "{x"}]), "arguments as JSON in row 2"),
        (changed(tool_calls=[{"name": "get_a", "arguments": [1]}]), "arguments by name for get_a in row 2"),
        (
            changed(role="user", tool_calls=[{"name": "get_a", "arguments": {}}]),
            "calls by the assistant alone; see row 2",
        ),
        (changed(content=None), "text in every message; row 2"),
        ([{**ROW, "tools": [{"name": "a b"}]}], "tools with names of letters.*row 1"),
        ([{**ROW, "tools": ["get_a"]}], "tools with names of letters.*row 1"),
        ([ROW, {"messages": "hello", "tools": TWO}], "a list of .* in row 2"),
    ],
)
def test_bad_rows_are_named(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path, rows)


@pytest.mark.parametrize(
    "arguments", [{"max_weight": 0.5}, {"argument_weight": -1.0}, {"error_signs": ["--"]}, {"truncation": "middle"}]
)
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        ToolConversations("rows.jsonl", **arguments)


def test_rows_in_which_every_turn_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    failed = {"messages": ROW["messages"][:3], "tools": TWO}
    with pytest.warns(UserWarning, match="1 of 2 train"):
        assert len(prepared(tmp_path, [ROW, failed]).examples["train"]) == 1


def test_traces_and_their_questions_fit_together() -> None:
    """The right option of a question is the first target of the same conversation, token by token."""
    traces, questions = attached(ToolTraces(conversations=40, error_share=1.0)), attached(ToolQuestions())
    assert traces.tokenizer.decode(traces.examples["train"][0]["input_ids"]).count("Invalid API call") == 1
    for i in range(10):
        conversation, text = traces.examples["val"][i], questions.questions["val"].options[i]
        right = text[questions.questions["val"].labels[i]]
        assert conversation["input_ids"][: len(right)].tolist() == right.input_ids
        assert len(text) == len(TOOLS)
    asked = attached(ToolQuestions(ask="argument")).questions["val"]
    assert [options[label].input_ids for options, label in zip(asked.options, asked.labels, strict=True)] == [
        options[label].input_ids
        for options, label in zip(questions.questions["val"].options, questions.questions["val"].labels, strict=True)
    ]
