"""Tool calls: where names part against brute force, weights by hand, failed turns, rewards by enumeration."""

import json
from itertools import groupby, product
from typing import Any

import pytest

from lit_ft.language.tool_calls import (
    ToolCall,
    branch_offsets,
    branch_weight,
    failed_turns,
    turn_segments,
    value_spans,
    weigh_branches,
    weigh_values,
)
from lit_ft.language.tool_reward import parsed_call, tool_call_reward
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens.chat import encode_chat
from lit_ft.tokens.segments import Encoded, Segment

NAMES = ["get_user", "get_users", "get_user_by_id", "get_item", "set_user", "getter"]


def merging_tokenizer() -> Any:
    """Bytes merged to pieces that cross the places where names part: ``user`` and ``users`` are one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split('"', "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator(["get_user users get_users _by _id item set_user getter"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = byte_tokenizer().chat_template
    return tokenizer


def marked(tokenizer: Any, name: str, names: list[str]) -> tuple[list[int], list[int]]:
    """Token ids of a turn that calls a tool, and the places of its tokens with the tag of a branch."""
    branches = {name: branch_offsets(tokenizer, name, names)}
    turn = turn_segments("", [ToolCall(name, {"a": 1})], branches, 1.0, 1)
    (example,) = encode_chat(tokenizer, [[Segment("do it", "user"), *turn]])
    return example.input_ids, [i for i, tag in enumerate(example.tags) if tag == "turn 1 branch"]


@pytest.mark.parametrize("make", [byte_tokenizer, merging_tokenizer])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_part_where_a_trie_of_whole_conversations_does(make: Any, name: str) -> None:
    """Every conversation is tokenised whole with each name put in: token i decides where paths differ at i."""
    tokenizer = make()
    ids, found = marked(tokenizer, name, NAMES)
    expected = set()
    for other in set(NAMES) - {name}:
        theirs = marked(tokenizer, other, [other])[0]
        expected.add(next(i for i, (a, b) in enumerate(zip(ids, theirs, strict=False)) if a != b))
    text = tokenizer.decode(ids)
    first = len(tokenizer(text[: text.index(name)], add_special_tokens=False)["input_ids"])
    assert set(found) == expected | {first}


def test_values_stand_where_they_are_written() -> None:
    call = ToolCall("get", {"a": 1, "wörd": 'say "ü", \n', "list": [1, {"b": None}], "": {}})
    found = [json.loads(call.text[begin:end]) for begin, end in value_spans(call)]
    assert found == list(call.arguments.values())
    assert value_spans(ToolCall("get", {})) == []


@pytest.mark.parametrize("make", [byte_tokenizer, merging_tokenizer])
def test_only_tokens_of_values_are_weighed_in_every_call_of_a_turn(make: Any) -> None:
    tokenizer, calls = make(), [ToolCall("get_user", {"a": 17, "b": "item"}), ToolCall("get_users", {"a": 4})]
    branches = {call.name: branch_offsets(tokenizer, call.name, NAMES) for call in calls}

    turn = turn_segments("I look.", calls, branches, 1.0, 1)
    (example,) = encode_chat(tokenizer, [[Segment("do it", "user"), *turn]])
    before = list(example.weights)
    ratios = [new / old if old else 0 for new, old in zip(weigh_values(example, 5.0).weights, before, strict=True)]
    assert set(ratios) == {0, 1, 5}
    groups = groupby(zip(example.input_ids, ratios, strict=True), key=lambda pair: pair[1])
    found = [tokenizer.decode([token for token, _ in group]) for ratio, group in groups if ratio == 5]
    assert [text.strip(' "') for text in found] == ["17", "item", "4"]


def test_values_count_among_the_others_of_a_turn() -> None:
    """Two branch tokens and six others, of which two give values: 6 / 2 = 3 as without values of their own."""
    tags = ["turn 1 branch"] * 2 + ["turn 1"] * 4 + ["turn 1 value"] * 2
    example = Encoded(list(range(9)), [0.0] + [1.0] * 8, ["user", *tags], [False] * 9)
    assert weigh_branches(example).weights == [0, 3, 3, 1, 1, 1, 1, 1, 1]


def test_the_merging_tokenizer_is_a_hard_case() -> None:
    """``user`` and ``users`` are told apart before their letters are."""
    pieces = {token.lstrip("Ġ") for token in merging_tokenizer().tokenize("get_user get_users")}
    assert {"_user", "_users"} <= pieces or {"user", "users"} <= pieces, pieces
    assert branch_offsets(merging_tokenizer(), "get_user", ["get_users"])[-1] < len("get_user")
    assert branch_offsets(byte_tokenizer(), "get_user", ["get_users"]) == [0, len("get_user")]


def test_weights_by_hand() -> None:
    """Two branch tokens and six others: 6 / 2 = 3; what has weight 0 is not counted; turns do not see each other."""
    tags = ["user", *["turn 1"] * 3, *["turn 1 branch"] * 2, *["turn 1"] * 4, "turn 3", "turn 3 branch"]
    weights = [0.0, *[0.5] * 8, 0.0, 1.0, 1.0]
    example = Encoded(list(range(12)), weights, tags, [False] * 12)
    assert weigh_branches(example, 9).weights == [0, *[0.5] * 3, 1.5, 1.5, *[0.5] * 3, 0, 1, 1]


@pytest.mark.parametrize(
    ("branches", "others", "most", "expected"),
    [(2, 6, 9, 3), (1, 40, 9, 9), (4, 6, 9, 1.5), (6, 6, 9, 1), (8, 6, 9, 1), (0, 6, 9, 1), (1, 40, 1, 1)],
)
def test_branch_weight(branches: int, others: int, most: float, expected: float) -> None:
    assert branch_weight(branches, others, most) == expected


def test_turns_that_failed() -> None:
    roles = ["user", "assistant", "tool", "assistant", "tool", "tool", "assistant", "user", "assistant", "tool"]
    said = [
        "",
        "",
        "NameError: x_is NOT defined!",
        "",
        "ok",
        "400 Client-Error",
        "the name is not defined",
        "",
        "",
        "ok",
    ]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    assert failed_turns(messages, ["is not defined", "400 client error"]) == {1, 3}
    assert failed_turns(messages, []) == set()


RIGHT = ToolCall("get", {"a": 1, "b": 2})
TOOLS = {"get": {"a", "b", "c", "d"}, "set": {"a"}}


def test_rewards_of_faulty_arguments_by_enumeration() -> None:
    """Every combination of an unknown argument, one too many and a missing one."""
    table = {(0, 0, 0): 1, (0, 0, 1): -0.5, (0, 1, 0): -0.5, (0, 1, 1): -1, (1, 0, 0): -0.8, (1, 0, 1): -1.3,
             (1, 1, 0): -1.3, (1, 1, 1): -1.8}  # fmt: skip
    for faults in product((0, 1), repeat=3):
        unknown, redundant, missing = faults
        arguments = {
            "a": 1,
            **({} if missing else {"b": 2}),
            **({"c": 3} if redundant else {}),
            **({"z": 0} if unknown else {}),
        }
        assert tool_call_reward(ToolCall("get", arguments).text, RIGHT, TOOLS) == table[faults], faults


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("get(a=1)", -2.0),
        ('{"name": "get"}', -2.0),
        ("[1]", -2.0),
        (ToolCall("fly", {"a": 1, "b": 2}).text, -2.0),
        (ToolCall("set", {"a": 1, "b": 2}).text, -1.5),
        (ToolCall("get", {"a": 1, "b": 3}).text, -0.25),
        ("I look it up.\n" + RIGHT.text + "\nthen", 1.0),
        ('{"name": "get", "arguments": {"b": 2, "a": 1}}', 1.0),
    ],
)
def test_other_rewards(text: str, reward: float) -> None:
    assert tool_call_reward(text, RIGHT, TOOLS) == reward


def test_what_is_written_is_read() -> None:
    call = ToolCall("get", {"text": 'ü "quoted"\n', "list": [1, None]})
    assert parsed_call(call.text) == call
