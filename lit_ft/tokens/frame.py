"""What a chat template writes around contents, so that a content that carries it already gets it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.tokens.segments import Segment, Specials, special_fields


@dataclass(frozen=True)
class Frame:
    """The special tokens of a chat template.

    Args:
        marks: Those that it writes around contents; no content may hold one.
        begins: What it writes once, at the beginning of a conversation.
        specials: Special tokens of the tokenizer.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> frame = Frame.of(byte_tokenizer())
        >>> [part.text for part in frame.bare([Segment("Well, "), Segment("no.</s>")], number=1)]
        ['Well, ', 'no.']
    """

    marks: tuple[str, ...]
    begins: str
    specials: Specials

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """The frame of a tokenizer with a chat template."""
        messages = [{"role": role, "content": "a"} for role in ("user", "assistant")]
        try:
            written = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception:
            written = ""
        specials = special_fields(tokenizer)
        added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
        found = sorted(mark for mark in added | {*tokenizer.all_special_tokens} if mark in written)
        begins = specials.bos if specials.bos and written.count(specials.bos) == 1 else ""
        return cls(tuple(mark for mark in found if mark != begins), begins, specials)

    def bare(self, parts: Sequence[Segment], number: int) -> list[Segment]:
        """The segments of a message without a beginning and an end that the template writes.

        Args:
            parts: Segments of one message.
            number: Number of the row from 1, for errors.
        """
        parts = list(parts)
        if self.begins:
            parts[0] = replace(parts[0], text=parts[0].text.removeprefix(self.begins))
        text, closed = self.specials.closed(parts[-1].text)
        while closed:
            end = max((end for end in self.specials.ends if text.endswith(end)), key=len)
            text, closed = self.specials.closed(text.removesuffix(end))
        parts[-1] = replace(parts[-1], text=text)
        content = "".join(part.text for part in parts)
        for mark in self.marks:
            if mark in content:
                allowed = (
                    f"text without {mark!r}, which the chat template writes; row {number} stands in a template already:"
                    " leave chat off, with prompt and completion or a text"
                )
                raise ConfigError("chat", content[:60], allowed)
        return parts
