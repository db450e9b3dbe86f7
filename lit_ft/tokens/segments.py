"""From a row of data to tokens with weights: an example is a list of segments."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.table_files import absent
from lit_ft.sources.table_format import listed

Truncation = Literal["right", "left", "prompt"]


@dataclass(frozen=True)
class Segment:
    """A piece of an example whose tokens share a role and a weight.

    Args:
        text: Text. In a template, ``{column}`` stands for a column of the row, ``{bos}`` and ``{eos}`` for special
            tokens, ``{start}`` for what the tokenizer adds before a text (often nothing), ``{{`` for a brace. A space
            between two segments belongs to one of them; best to the second.
        role: Role of the text; with a chat template the role of the message (``system``, ``user``, ``assistant``,
            ``tool``). Neighbours of one role are one message, unless the second ``opens`` another.
        weight: Weight of its tokens as targets: with 0 they are input only; fractions and negative numbers are allowed.
        tag: A name by which later steps find its tokens.
        embed: Whether its tokens are pooled into an embedding.
        max_tokens: Most tokens; the end is cut.
        claims: In a chat, whether every token with any of its characters belongs to it, even if most of the token does
            not.
        opens: In a chat: it begins a message of its own, also behind one of its role, and these are the message's
            further keys for the chat template (``name``, ``tool_call_id``); None belongs to the neighbours of its role.

    See also: :func:`fill`, :func:`encode`.

    Example:
        >>> template = [Segment("{question}"), Segment(" {answer}{eos}", weight=1.0)]
        >>> row = {"question": "2 + 2?", "answer": 4}
        >>> [segment.text for segment in fill(template, row, Specials(eos="</s>"), number=1)]
        ['2 + 2?', ' 4</s>']
    """

    text: str
    role: str = ""
    weight: float = 0.0
    tag: str = ""
    embed: bool = False
    max_tokens: int | None = None
    claims: bool = False
    opens: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a limit below one token."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError("template.max_tokens", self.max_tokens, "at least 1")


@dataclass
class Encoded:
    """An example as tokens; all lists have the same length.

    Args:
        input_ids: Token ids.
        weights: Weight of each token as a target. The first is 0: nothing predicts it.
        tags: Tag of the segment that each token comes from.
        embed: Whether each token is pooled.
        cut: Tokens that it lost to a limit.

    Example:
        >>> example = Encoded()
        >>> example.add([5, 6], Segment("", weight=1.0))
        >>> example.weights
        [0.0, 1.0]
        >>> example.take(slice(1, None))
        Encoded(input_ids=[6], weights=[0.0], tags=[''], embed=[False], cut=1)
    """

    input_ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    embed: list[bool] = field(default_factory=list)
    cut: int = 0

    def add(self, ids: Iterable[int], segment: Segment) -> None:
        """Append the tokens of a segment."""
        for token in ids:
            self.input_ids.append(token)
            self.weights.append(segment.weight if self.weights else 0.0)
            self.tags.append(segment.tag)
            self.embed.append(segment.embed)

    @property
    def has_targets(self) -> bool:
        """Whether any token is a target."""
        return any(self.weights)

    def __len__(self) -> int:
        return len(self.input_ids)

    def take(self, keep: slice | Sequence[int]) -> Encoded:
        """A part of the tokens; the first of them is not a target."""
        numbers = range(len(self))[keep] if isinstance(keep, slice) else keep
        taken = Encoded(
            [self.input_ids[i] for i in numbers],
            [self.weights[i] for i in numbers],
            [self.tags[i] for i in numbers],
            [self.embed[i] for i in numbers],
            cut=self.cut + len(self) - len(numbers),
        )
        taken.weights[:1] = [0.0] if taken.weights else []
        return taken


@dataclass(frozen=True)
class Specials:
    """Special tokens of a tokenizer, as templates name them.

    Args:
        bos: ``{bos}``, the token that marks a beginning; empty where there is none.
        eos: ``{eos}``, the end of a text.
        start: ``{start}``, what the tokenizer adds before a text, often nothing.
        ends: All tokens that close a text or a turn; a text that ends with one gets no second end.

    Example:
        >>> Specials(eos="</s>").fields
        {'bos': '', 'eos': '</s>', 'start': ''}
    """

    bos: str = ""
    eos: str = ""
    start: str = ""
    ends: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, str]:
        """The text of each field of a template."""
        return {"bos": self.bos, "eos": self.eos, "start": self.start}

    def closed(self, text: str) -> tuple[str, bool]:
        """A text without whitespace behind a token that closes it, and whether there is such a token.

        Example:
            >>> specials = Specials(eos="</s>", ends=("</s>",))
            >>> specials.closed("a</s> "), specials.closed("a ")
            (('a</s>', True), ('a ', False))
        """
        bare = text.rstrip()
        closed = bool(self.ends) and bare.endswith(self.ends)
        return (bare if closed else text), closed


def around(tokenizer: Any) -> tuple[str, str]:
    """The text of the special tokens that a tokenizer adds before and behind a text.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> around(byte_tokenizer())
        ('', '')
    """
    marked, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    first = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), 0)
    sides = marked[:first], marked[first + len(plain) :]
    before, behind = ("".join(tokenizer.convert_ids_to_tokens(side)) for side in sides)
    return before, behind


def special_fields(tokenizer: Any) -> Specials:
    """What ``{bos}``, ``{eos}`` and ``{start}`` stand for, and the tokens that close a text.

    Those are the end of text, what the tokenizer adds behind one, and special tokens whose names say so:
    ``<|endoftext|>``, ``<|im_end|>``, ``<|eot_id|>``, ``<end_of_turn>``.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> special_fields(byte_tokenizer())
        Specials(bos='<s>', eos='</s>', start='', ends=('</s>',))
    """
    start, behind = around(tokenizer)
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    named = [token for token in added if re.search(r"(?i)end(?!er)|eo[stmd]\b|eo[stmd]_|^</", token)]
    ends = dict.fromkeys([tokenizer.eos_token, behind, *named])
    return Specials(
        tokenizer.bos_token or "", tokenizer.eos_token or "", start, tuple(end for end in ends if end and end.strip())
    )


def fill(template: Sequence[Segment], row: Mapping[str, Any], specials: Specials, number: int) -> list[Segment]:
    """The segments of one row; text of the row is inserted as it is, never parsed as a template.

    A column that begins with the ``{start}`` or ``{bos}`` before it keeps one of them, and one that ends with a token
    that closes a text gets no further ``{eos}``.

    Args:
        template: Segments with ``{column}`` in their text.
        row: Columns; the special fields win over columns of the same name.
        specials: From :func:`special_fields`.
        number: Number of the row from 1, for errors.

    Example:
        >>> segments = fill([Segment("{{{text}}}{eos}")], {"text": "a {b}"}, Specials(eos="</s>"), number=1)
        >>> segments[0].text
        '{a {b}}</s>'
    """
    fields = specials.fields
    values = {**row, **fields}
    filled: list[list[str]] = []
    begun, before = "", [""]  # what stands right before: special text; the pieces that end with a column
    for segment in template:
        pieces: list[str] = []
        filled.append(pieces)
        for literal, name, form, conversion in _fields(segment.text):
            if literal:
                pieces.append(literal)
                begun, before = "", [""]
            if name is None:
                continue
            if form or conversion:
                raise ConfigError("template", segment.text, f"{{{name}}} alone, without a format")
            if absent(values.get(name)):
                known = [str(column) for column in values if not absent(row.get(column)) or fields.get(column)]
                place = f"columns that row {number} has: {listed(known)}{nearest(name, known)}"
                raise ConfigError("template", f"{{{name}}}", place)
            if isinstance(values[name], (list, dict, bytes)):
                raise ConfigError(
                    "path", values[name], f"a text in {name!r}, not a list or an object; see row {number}"
                )
            text = str(values[name])
            if name == "eos":
                before[-1], closed = specials.closed(before[-1])
                pieces.append("" if closed else text)
                before = [""]
            elif name in fields:
                begun += text
                pieces.append(text)
            else:
                pieces.append(text.removeprefix(begun))
                begun, before = "", pieces
    return [replace(segment, text="".join(pieces)) for segment, pieces in zip(template, filled, strict=True)]


def _fields(text: str) -> Iterable[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError("template", text, f"{{column}}, and {{{{ for a brace: {error}") from error


def encode(
    tokenizer: Any,
    segments: Sequence[Segment],
    max_length: int | None = None,
    truncation: Truncation = "right",
) -> Encoded:
    """Tokenise segments separately and join them; see :func:`encode_all`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> example = encode(byte_tokenizer(), [Segment("ab"), Segment("c</s>", weight=1.0)])
        >>> example.weights, example.input_ids[-1]
        ([0.0, 0.0, 1.0, 1.0], 2)
    """
    return encode_all(tokenizer, [segments], max_length, truncation)[0]


def encode_all(
    tokenizer: Any,
    examples: Sequence[Sequence[Segment]],
    max_length: int | None = None,
    truncation: Truncation = "right",
) -> list[Encoded]:
    """Tokenise many examples in one call. Each segment is tokenised on its own, so that no token is part of two.

    Args:
        tokenizer: A tokenizer of ``transformers``; it adds no special tokens here: they are part of the text.
        examples: Segments of each example.
        max_length: Longest example in tokens; None cuts nothing.
        truncation: What is dropped if an example is too long; see :func:`truncated`.

    See also: :func:`~lit_ft.tokens.chat.encode_chat`, for a chat template.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> segments = [Segment("abc"), Segment("de", weight=1.0)]
        >>> examples = encode_all(byte_tokenizer(), [segments, segments[1:]], max_length=4)
        >>> [example.weights for example in examples]
        [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0]]
    """
    texts = list(dict.fromkeys(s.text for segments in examples for s in segments if s.text))
    ids: dict[str, list[int]] = {"": []}
    if texts:
        found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        ids |= dict(zip(texts, found, strict=True))
    joined = []
    for segments in examples:
        example = Encoded()
        for segment in segments:
            example.add(ids[segment.text][: segment.max_tokens], segment)
        joined.append(truncated(example, max_length, truncation))
    return joined


def truncated(example: Encoded, max_length: int | None, truncation: Truncation = "right") -> Encoded:
    """An example of at most ``max_length`` tokens.

    Args:
        example: The whole example.
        max_length: Most tokens; None keeps all.
        truncation: ``right`` drops the end, ``left`` the beginning, ``prompt`` first the oldest tokens before the first
            target (but never the very first token, which may mark the beginning), and then the end.

    Example:
        >>> example = Encoded([1, 2, 3, 4, 5], [0, 0, 0, 1, 1], [""] * 5, [False] * 5)
        >>> {way: truncated(example, 3, way).input_ids for way in ("right", "left", "prompt")}
        {'right': [1, 2, 3], 'left': [3, 4, 5], 'prompt': [1, 3, 4]}
    """
    if truncation not in ("right", "left", "prompt"):
        raise ConfigError("truncation", truncation, "right, left or prompt")
    if max_length is None or len(example) <= max_length:
        return example
    if truncation == "right":
        return example.take(slice(max_length))
    if truncation == "left":
        return example.take(slice(-max_length, None))
    first = next((i for i, weight in enumerate(example.weights) if weight), len(example))
    # at least one token stays before the first target, or that would be no target
    surplus = min(len(example) - max_length, max(0, first - 2))
    kept = [0, *range(1 + surplus, len(example))]
    return example.take(kept[:max_length])
