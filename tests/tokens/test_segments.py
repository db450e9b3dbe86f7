"""Tokens with weights, from segments and from chat templates."""

from pathlib import Path
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens.chat import encode_chat, message_segments
from lit_ft.tokens.segments import Encoded, Segment, Specials, encode, fill, special_fields, truncated
from lit_ft.tokens.tokenized import tokenized

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def merging() -> Any:
    """A BPE that merges across the boundary of prompt and answer, and whose padding is its end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "ab", "Ċa"]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[("a", "b"), ("Ċ", "a")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    found.chat_template = CHATML
    return found


def learned(tokenizer: Any, example: Encoded) -> str:
    return tokenizer.decode([t for t, w in zip(example.input_ids, example.weights, strict=True) if w])


def test_segments_are_tokenised_apart(merging: Any) -> None:
    """The prompt of training is that of inference, also where the whole text would merge across the boundary."""
    example = encode(merging, [Segment("xa"), Segment("b<|im_end|>", weight=1)])
    assert merging("xab")["input_ids"] != merging("xa")["input_ids"] + merging("b")["input_ids"]
    assert example.input_ids == [*merging("xa")["input_ids"], *merging("b")["input_ids"], merging.eos_token_id]
    assert example.weights == [0, 0, 1, 1]


def test_the_end_is_learned_where_padding_is_the_end(merging: Any) -> None:
    assert merging.pad_token_id == merging.eos_token_id
    example = encode(merging, [Segment("q"), Segment("w{eos}".replace("{eos}", merging.eos_token), weight=1)])
    assert example.input_ids[-1] == merging.eos_token_id
    assert example.weights[-1] == 1


def test_fields_are_filled_once_and_named_when_missing() -> None:
    template = [Segment("{start}{question} {{"), Segment(" {answer}{eos}", weight=1)]
    row = {"question": "{answer}", "answer": "yes", "eos": "not this"}
    filled = fill(template, row, special_fields(byte_tokenizer()), 1)
    assert [s.text for s in filled] == ["{answer} {", " yes</s>"]
    with pytest.raises(ConfigError, match=r"row 7.*did you mean 'answer'"):
        fill([Segment("{anser}")], row, Specials(), 7)
    with pytest.raises(ConfigError, match=r"row 7 has: a$"):
        fill([Segment("{question}")], {"question": None, "a": "b"}, Specials(), 7)


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ("<s>q", "a</s>", ["<s>q", "a</s>"]),
        ("q", "a</s>\n", ["<s>q", "a</s>"]),  # whitespace behind the end is no text to learn
        ("q", "a<|eot_id|>", ["<s>q", "a<|eot_id|>"]),  # the end of a turn is an end
        ("q\n", "a </s> b\n", ["<s>q\n", "a </s> b\n</s>"]),  # an end inside of a text is not its end
        ("x<s>q", "</s>", ["<s>x<s>q", "</s>"]),
    ],
)
def test_a_text_that_carries_its_beginning_or_end_gets_it_once(prompt: str, answer: str, found: list[str]) -> None:
    specials = Specials(bos="<s>", eos="</s>", start="<s>", ends=("</s>", "<|eot_id|>"))
    row = {"prompt": prompt, "answer": answer}
    whole = [Segment("{start}{prompt}"), Segment("{answer}{eos}", weight=1)]
    apart = [Segment("{start}"), Segment("{prompt}"), Segment("{answer}", weight=1), Segment("{eos}", weight=1)]
    assert [s.text for s in fill(whole, row, specials, 1)] == found
    assert "".join(s.text for s in fill(apart, row, specials, 1)) == "".join(found)


def test_which_tokens_close_a_text() -> None:
    tokenizer = byte_tokenizer()
    more = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<file_sep>", "<think>"]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    assert set(special_fields(tokenizer).ends) == {"</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>"}


def test_start_is_what_the_tokenizer_adds() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    assert special_fields(tokenizer).start == ""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert special_fields(tokenizer).start == "<s>"


def test_texts_of_a_table_get_the_marks_of_the_tokenizer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers.processors import TemplateProcessing

    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path))
    tokenizer = byte_tokenizer()
    marks = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    found = tokenized(["ab", "<s>ab</s>", "ab</s>", "</s>ab"], tokenizer)
    assert [tokenizer.decode(found[i]) for i in range(4)] == ["<s>ab</s>"] * 3 + ["<s></s>ab</s>"]


def test_truncation() -> None:
    tokenizer = byte_tokenizer()
    example = encode(tokenizer, [Segment("12345678"), Segment("abcd</s>", weight=0.5)])
    assert learned(tokenizer, example) == "abcd</s>"
    assert tokenizer.decode(truncated(example, 10, "right").input_ids) == "12345678ab"
    left = truncated(example, 3, "left")
    assert tokenizer.decode(left.input_ids) == "cd</s>"
    assert left.weights == [0, 0.5, 0.5], "nothing predicts the first token"
    assert tokenizer.decode(truncated(example, 10, "prompt").input_ids) == "15678abcd</s>"
    short = truncated(example, 4, "prompt")
    assert tokenizer.decode(short.input_ids) == "18ab"
    assert short.weights == [0, 0, 0.5, 0.5]
    assert not truncated(example, 8, "right").has_targets
    assert tokenizer.decode(encode(tokenizer, [Segment("abc", max_tokens=2), Segment("d")]).input_ids) == "abd"
    with pytest.raises(ConfigError, match="truncation"):
        truncated(example, 4, "middle")  # type: ignore[arg-type]


MESSAGES = [
    {"role": "system", "content": "assistant"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": " ab ", "weight": 0.25},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "user"},
]


@pytest.mark.parametrize("text", ["{prompt", "prompt}", "{prompt:>9}", "{prompt!r}"])
def test_a_template_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"template: given '.?prompt"):
        fill([Segment(text)], {"prompt": "q"}, Specials(), 1)


def test_chat_has_the_ids_of_the_template_and_our_weights(merging: Any) -> None:
    example = encode_chat(merging, [message_segments(MESSAGES, ["assistant"], 1)])[0]
    assert example.input_ids == merging.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
    assert learned(merging, example) == "ab<|im_end|>user<|im_end|>"
    assert set(example.weights) == {0, 0.25, 1}
    quarter = [t for t, w in zip(example.input_ids, example.weights, strict=True) if w == 0.25]
    assert merging.decode(quarter) == "ab<|im_end|>"


def test_messages_of_one_role_in_a_row_stay_apart_and_keep_their_keys(merging: Any) -> None:
    """``apply_chat_template`` sees the messages of the row, further keys with them; calls are not for this place."""
    said = [
        ("user", "Hello."),
        ("user", "Are you there?"),
        ("assistant", "Yes."),
        ("assistant", "I am."),
        ("tool", "3"),
    ]
    messages = [{"role": role, "content": text, "name": "n" + text[0]} for role, text in said]
    merging.chat_template = CHATML.replace("m['role']", "m['role'] + m.get('name', '')")
    example = encode_chat(merging, [message_segments(messages, ["assistant"], 1)])[0]
    assert example.input_ids == merging.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert learned(merging, example) == "Yes.<|im_end|>I am.<|im_end|>"
    merging.chat_template = CHATML
    for key in ("tool_calls", "function_call"):
        with pytest.raises(ConfigError, match=rf"messages\.{key}.*ToolConversations learns them; row 4"):
            message_segments([{"role": "assistant", "content": "", key: [{"name": "x"}]}], ["assistant"], 4)
        message_segments([{"role": "assistant", "content": "", key: None}], ["assistant"], 4)


@pytest.mark.parametrize(
    "answer", ["yes<|im_end|>", "yes<|im_end|>\n", "yes<|endoftext|><|im_end|>", "yes<|endoftext|>"]
)
def test_an_answer_that_ends_its_turn_is_ended_once(answer: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
    tokenizer.chat_template = CHATML
    parts = [Segment("q<|im_end|>", "user"), Segment(answer, "assistant", 1.0)]
    example = encode_chat(tokenizer, [parts])[0]
    assert learned(tokenizer, example) == "yes<|im_end|>"
    assert tokenizer.decode(example.input_ids).count("<|im_end|>") == 2
    rendered = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ConfigError, match=r"chat: .*row 5 stands in a template already"):
        encode_chat(tokenizer, [[Segment(rendered, "user"), parts[1]]], numbers=[5])


def test_a_beginning_that_the_template_writes_is_written_once() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}</s>"
    example = encode_chat(tokenizer, [[Segment("<s>q", "user"), Segment("a", "assistant", 1.0)]])[0]
    assert tokenizer.decode(example.input_ids) == "<s>[user]q[assistant]a</s>"


def test_a_token_over_a_boundary_belongs_to_most_of_its_characters(merging: Any) -> None:
    """``\\na`` is one token of the whole: apart and whole differ, and the later segment gets it."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ax"}]
    example = encode_chat(merging, [message_segments(messages, ["assistant"], 1)])[0]
    assert example.input_ids == merging.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert learned(merging, example) == "\nax<|im_end|>"


def test_segments_of_one_message_keep_their_weights(merging: Any) -> None:
    parts = [Segment("q", "user"), Segment("one", "assistant", -1), Segment(" two", "assistant", 2, tag="end")]
    example = encode_chat(merging, [parts])[0]
    by_weight = {w: merging.decode([t for t, v in zip(example.input_ids, example.weights, strict=True) if v == w])
                 for w in (-1, 2)}  # fmt: skip
    assert by_weight == {-1: "one", 2: " two<|im_end|>"}


def test_a_template_that_rewrites_earlier_turns() -> None:
    """Thoughts of earlier turns are dropped from the whole, so a prefix is rendered differently."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<s>' + m.role + '\n' + (m.content if loop.last else m.content.split('#')[-1])"
        " + '</s>' }}{% endfor %}"
    )
    messages = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "q"},
                {"role": "assistant", "content": "t#y"}]  # fmt: skip
    example = encode_chat(tokenizer, [message_segments(messages, ["assistant"], 1)])[0]
    assert learned(tokenizer, example) == "x</s>t#y</s>"
    messages[0]["content"] = "t#x"
    with pytest.raises(ConfigError, match="row 4"):
        encode_chat(tokenizer, [message_segments(messages, ["assistant"], 4)], numbers=[4])


def test_wrong_messages_name_the_row() -> None:
    with pytest.raises(ConfigError, match=r"row 3.*did you mean 'assistant'"):
        message_segments([{"role": "asistant", "content": "x"}], ["assistant"], 3)
    with pytest.raises(ConfigError, match="row 3"):
        message_segments([{"role": "user", "content": None}], ["assistant"], 3)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        encode_chat(tokenizer, [[Segment("x", "user")]])


def test_the_packaged_template_of_bytes() -> None:
    tokenizer = byte_tokenizer()
    example = encode_chat(tokenizer, [message_segments(MESSAGES, ["assistant"], 1)])[0]
    assert learned(tokenizer, example) == " ab </s>user</s>"


def test_an_answer_of_space_alone_is_not_taken_for_a_space_of_the_template() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content|trim + '</s>' }}{% endfor %}"
    for turns in (1, 3):
        messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\n"}] * turns
        example = encode_chat(tokenizer, [message_segments(messages, ["assistant"], 1)])[0]
        assert learned(tokenizer, example) == "</s>" * turns


@pytest.mark.parametrize("answer", ["a", "s", "assistant", "user\nq", "", "an", " a "])
def test_an_answer_that_stands_in_the_template_too_is_learned_in_its_own_place(answer: str, merging: Any) -> None:
    messages = [{"role": "user", "content": "s"}, {"role": "assistant", "content": answer}]
    for tokenizer, shown in ((byte_tokenizer(), answer), (merging, answer.strip())):
        for turns in (messages, [*messages, *messages]):
            example = encode_chat(tokenizer, [message_segments(turns, ["assistant"], 1)])[0]
            opening = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
            ids, closed = (
                tokenizer(f"{shown}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"],
                len(opening),
            )
            assert example.input_ids[:closed] == opening or tokenizer is merging  # there "\na" is one token
            assert not any(example.weights[: closed - 1])
            found = learned(tokenizer, example)
            assert found.replace("\n", "") == tokenizer.decode(ids).replace("\n", "") * (len(turns) // 2)
