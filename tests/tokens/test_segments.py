"""Tokens with weights, from segments and from chat templates."""

from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens.chat import encode_chat, message_segments
from lit_ft.tokens.segments import Encoded, Segment, encode, fill, special_fields, truncated

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
        fill([Segment("{anser}")], row, {}, 7)
    with pytest.raises(ConfigError, match=r"row 7 has: a$"):
        fill([Segment("{question}")], {"question": None, "a": "b"}, {}, 7)


def test_start_is_what_the_tokenizer_adds() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    assert special_fields(tokenizer)["start"] == ""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert special_fields(tokenizer)["start"] == "<s>"


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
        fill([Segment(text)], {"prompt": "q"}, {}, 1)


def test_chat_has_the_ids_of_the_template_and_our_weights(merging: Any) -> None:
    example = encode_chat(merging, [message_segments(MESSAGES, ["assistant"], 1)])[0]
    assert example.input_ids == merging.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
    assert learned(merging, example) == "ab<|im_end|>user<|im_end|>"
    assert set(example.weights) == {0, 0.25, 1}
    quarter = [t for t, w in zip(example.input_ids, example.weights, strict=True) if w == 0.25]
    assert merging.decode(quarter) == "ab<|im_end|>"


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


@pytest.mark.parametrize("answer", ["a", "s", "assistant", "user\nq", "", "an", " a ", "</s>"])
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
