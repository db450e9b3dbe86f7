"""Messages as tokens: the text comes from the tokenizer's chat template, the weights come from our segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.tokens.frame import Frame
from lit_ft.tokens.segments import Encoded, Segment, Truncation, encode_all, truncated

ROLES = ("system", "developer", "user", "assistant", "tool")
_OWN = ("role", "content", "weight", "tool_calls", "function_call")
_MARK = "\ue000content\ue001"  # occurs in no text


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    segment: Segment


def checked_messages(messages: Any, number: int) -> list[dict[str, Any]]:
    """Messages of a row, or an error with the number of the row."""
    if not isinstance(messages, (list, tuple)) or not all(isinstance(message, Mapping) for message in messages):
        raise ConfigError("messages", str(messages)[:80], f"a list of {{role, content}} in row {number}")
    return list(messages)


def message_segments(
    messages: Sequence[Mapping[str, Any]], train_on: Sequence[str], number: int, scale: float = 1.0
) -> list[Segment]:
    """One segment per message; its weight is that of the message (``weight``), or else 1 for roles that are trained on.

    Args:
        messages: ``{role, content}``, and optionally ``weight``.
        train_on: Roles whose messages are targets.
        number: Number of the row from 1, for errors.
        scale: Weight of the whole example.

    Example:
        >>> messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
        >>> [(segment.text, segment.weight) for segment in message_segments(messages, ["assistant"], number=1)]
        [('2 + 2?', 0.0), ('4', 1.0)]
    """
    segments = []
    for message in checked_messages(messages, number):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ConfigError("messages.role", role, f"{', '.join(ROLES)} in row {number}{nearest(str(role), ROLES)}")
        if not isinstance(content, str):
            raise ConfigError("messages.content", content, f"text in every message; row {number} has none")
        for key in ("tool_calls", "function_call"):
            if message.get(key):
                allowed = f"no calls of tools here: ToolConversations learns them; row {number} has one"
                raise ConfigError(f"messages.{key}", str(message[key])[:80], allowed)
        weight = message.get("weight")
        weight = float(role in train_on) if weight is None else weight
        if not isinstance(weight, (int, float)):
            raise ConfigError("messages.weight", weight, f"a number, or none, in row {number}")
        others = {key: value for key, value in message.items() if value is not None and key not in _OWN}
        segments.append(Segment(content, role=role, weight=scale * weight, tag=role, opens=others))
    return segments


def encode_chat(
    tokenizer: Any,
    examples: Sequence[Sequence[Segment]],
    max_length: int | None = None,
    truncation: Truncation = "right",
    numbers: Sequence[int] | None = None,
) -> list[Encoded]:
    """Tokens of the chat template as a whole, each with the weight of the segment that its characters come from.

    The ids are those of ``tokenizer.apply_chat_template``. The end of an assistant's turn (``<|im_end|>``, ``</s>``)
    has the weight of the turn, so that ending is learned; every other text of the template has weight 0.

    Args:
        tokenizer: A tokenizer of ``transformers`` with a chat template.
        examples: Segments with roles; neighbours of one role are one message, unless the second opens another. A
            content that begins or ends with the tokenizer's own marks loses them, as the template writes them.
        max_length: Longest example in tokens; None cuts nothing.
        truncation: As in :func:`lit_ft.tokens.segments.truncated`.
        numbers: Numbers of the rows from 1, for errors.

    See also: :func:`message_segments`, :func:`~lit_ft.tokens.segments.encode_all`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> (example,) = encode_chat(tokenizer, [[Segment("Hi", "user"), Segment("4", "assistant", weight=1.0)]])
        >>> tokenizer.decode([token for token, weight in zip(example.input_ids, example.weights) if weight])
        '4</s>'
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("chat", True, "a tokenizer with a chat template, or rows of prompt and completion")
    numbers = range(1, len(examples) + 1) if numbers is None else numbers
    frame = Frame.of(tokenizer)
    rendered = [_spans(tokenizer, frame, segments, n) for segments, n in zip(examples, numbers, strict=True)]
    if getattr(tokenizer, "is_fast", False):
        encoded = _by_offsets(tokenizer, rendered)
    else:
        encoded = _apart(tokenizer, rendered, numbers)
    return [truncated(example, max_length, truncation) for example in encoded]


def _spans(tokenizer: Any, frame: Frame, segments: Sequence[Segment], number: int) -> tuple[str, list[_Span]]:
    """The rendered text, and the span of each segment in it."""
    turns = [(parts[0].role, frame.bare(parts, number)) for parts in _messages(segments)]
    messages = [
        {**(parts[0].opens or {}), "role": role, "content": "".join(part.text for part in parts)}
        for role, parts in turns
    ]

    def rendered(some: list[dict[str, Any]]) -> str:
        try:
            return tokenizer.apply_chat_template(some, tokenize=False)
        except Exception as error:
            raise ConfigError("messages", [m["role"] for m in messages], f"row {number}: {error}") from error

    def with_mark(position: int) -> str:
        message = {**messages[position], "content": _MARK}
        return rendered([*messages[:position], message, *messages[position + 1 :]])

    whole, spans, cursor = rendered(messages), [], 0
    for position, (message, (role, parts)) in enumerate(zip(messages, turns, strict=True)):
        region_end = _prefix_end(lambda upto: rendered(messages[:upto]), position + 1, len(messages), whole)
        content, marked = message["content"], partial(with_mark, position)
        start = _place(content, whole, cursor, region_end, marked)
        skipped = 0
        if start < 0:  # many templates strip it
            skipped = len(content) - len(content.lstrip())
            content = content.strip()
            start = _place(content, whole, cursor, region_end, marked)
        if start < 0:
            if any(part.weight or part.embed for part in parts):
                allowed = f"a chat template that shows it; that of row {number} leaves it out or changes it"
                raise ConfigError("messages", f"{role}: {content[:40]!r}", allowed)
            continue
        end = start + len(content)
        limit = len(whole) if region_end is None else region_end
        close = _turn_end(tokenizer, whole, end, limit, region_end is not None) if role == "assistant" else end
        place = start - skipped
        for part in parts:
            spans.append(_Span(max(place, start), min(place + len(part.text), end), part))
            place += len(part.text)
        spans.append(_Span(end, close, parts[-1]))
        cursor = close
    return whole, spans


def _messages(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments of each message."""
    messages: list[list[Segment]] = []
    for segment in segments:
        if not messages or segment.opens is not None or segment.role != messages[-1][0].role:
            messages.append([])
        messages[-1].append(segment)
    return messages


def _place(content: str, whole: str, cursor: int, end: int | None, marked: Callable[[], str]) -> int:
    """Where a content begins after the cursor; -1 if it is not there.

    A short content may also occur in the words of the template ("a" in "assistant"), a stripped line break between
    them, and an empty one everywhere: then the place is found by rendering a mark instead of the content.
    """
    first = whole.find(content, cursor, end)
    whole_words = bool(content) and content == content.strip()
    if first < 0 or (whole_words and whole.find(content, first + 1, end) < 0):
        return first
    try:
        text = marked()
    except ConfigError:  # a template that refuses other words there
        return first if content else -1
    place = text.find(_MARK, cursor)
    if place < 0 or not whole.startswith(text[:place]):
        return first if content else -1
    return place if whole.startswith(content, place) else -1


def _prefix_end(render: Any, upto: int, length: int, whole: str) -> int | None:
    """Where the text of the first messages ends in the whole; None for templates that render a prefix differently."""
    if upto == length:
        return len(whole)
    try:
        part = render(upto)
    except ConfigError:
        return None
    return len(part) if whole.startswith(part) else None


def _turn_end(tokenizer: Any, whole: str, end: int, limit: int, certain: bool) -> int:
    """The end of the mark that closes a turn, without whitespace after it."""
    rest = whole[end:limit]
    marks = [m for m in sorted(tokenizer.all_special_tokens, key=len, reverse=True) if rest.lstrip().startswith(m)]
    if marks:
        return end + len(rest) - len(rest.lstrip()) + len(marks[0])
    return end + len(rest.rstrip()) if certain else end


def _by_offsets(tokenizer: Any, rendered: Sequence[tuple[str, list[_Span]]]) -> list[Encoded]:
    texts = [whole for whole, _ in rendered]
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    encoded = []
    outside = Segment("")
    for (_, spans), ids, offsets in zip(rendered, found["input_ids"], found["offset_mapping"], strict=True):
        example, position = Encoded(), 0
        for token, (start, end) in zip(ids, offsets, strict=True):
            while position < len(spans) and spans[position].end <= start:
                position += 1
            example.add([token], _owner(spans, position, start, end) or outside)
        encoded.append(example)
    return encoded


def _owner(spans: Sequence[_Span], position: int, start: int, end: int) -> Segment | None:
    """The segment that claims a token or has most of its characters; None if most of them are outside."""
    best, most, inside = None, 0, 0
    for span in spans[position:]:
        if span.start >= end:
            break
        shared = min(end, span.end) - max(start, span.start)
        if shared > 0 and span.segment.claims:
            return span.segment
        inside += max(0, shared)
        if shared >= max(most, 1):
            best, most = span.segment, shared
    return best if most >= (end - start) - inside else None


def _apart(tokenizer: Any, rendered: Sequence[tuple[str, list[_Span]]], numbers: Sequence[int]) -> list[Encoded]:
    """Without offsets: tokenise pieces, which must give the ids of the whole text."""
    pieces = []
    for whole, spans in rendered:
        parts, cursor = [], 0
        for span in (s for s in spans if s.end > s.start):
            parts.append(Segment(whole[cursor : span.start]))
            parts.append(Segment(whole[span.start : span.end], "", span.segment.weight, span.segment.tag))
            cursor = span.end
        pieces.append([*parts, Segment(whole[cursor:])])
    encoded = encode_all(tokenizer, pieces)
    whole_ids = tokenizer([whole for whole, _ in rendered], add_special_tokens=False)["input_ids"]
    for example, ids, number in zip(encoded, whole_ids, numbers, strict=True):
        if example.input_ids != list(ids):
            allowed = f"a fast tokenizer: pieces of row {number} give other tokens than its whole text"
            raise ConfigError("tokenizer", type(tokenizer).__name__, allowed)
    return encoded
