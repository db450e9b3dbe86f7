"""Rows that are only to be answered: the question is read as in training, whether or not there is an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.sources.layouts import Layout, holds
from lit_ft.sources.table_files import Row
from lit_ft.sources.text_layouts import ANSWERS, CONVERSATIONS, QUESTIONS
from lit_ft.tokens.segments import Segment

STANDS_IN = "."
"""Takes the place of an answer that is not there, so that there is a target, before which the question ends."""


def with_answer(row: Row, template: Sequence[Segment] | None = None, layout: Layout | None = None) -> tuple[Row, bool]:
    """A row that can be read as one with an answer, and whether it has one of its own.

    Args:
        row: A question, with or without an answer: messages, of which the last may be the user's, or columns.
        template: Segments that are filled with the row; None reads its columns.
        layout: The columns that a person named; None goes by the names that are known.

    Example:
        >>> with_answer({"question": "1 + 1?"}), with_answer({"question": "1 + 1?", "answer": "2"})[1]
        (({'question': '1 + 1?', 'answer': '.'}, False), True)
        >>> with_answer({"messages": [{"role": "user", "content": "Hi"}]})[0]["messages"][-1]
        {'role': 'assistant', 'content': '.'}
        >>> with_answer({"text": "Once upon"})[0]
        {'prompt': 'Once upon', 'completion': '.'}
    """
    for name in CONVERSATIONS if template is None and layout is None else ():
        if isinstance(row.get(name), list) and row[name] and isinstance(row[name][-1], Mapping):
            return _turn_added(row, name)
    if template is not None:
        fields = [_fields(segment) for segment in template if segment.weight]
        answers = [name for names in fields for name in names if name not in ("bos", "eos", "start")]
    elif layout is not None:
        answers = [name for name in layout.needs if name not in layout.asks]
    else:
        asked = next((name for name in QUESTIONS if holds(row.get(name))), None)
        if asked is None:
            if holds(row.get("text")):
                return {"prompt": row["text"], "completion": STANDS_IN}, False
            return row, True
        there = [name for name in ANSWERS if holds(row.get(name))]
        answers = there[:1] or [QUESTIONS[asked][0]]
    missing = [name for name in answers if not holds(row.get(name))]
    return {**row, **dict.fromkeys(missing, STANDS_IN)}, not missing


def _turn_added(row: Row, name: str) -> tuple[Row, bool]:
    last = row[name][-1]
    says, holds_text = ("from", "value") if "from" in last else ("role", "content")
    if last.get(says) in ("assistant", "gpt", "model", "bot", "chatgpt"):
        return row, True
    answer = {says: "gpt" if says == "from" else "assistant", holds_text: STANDS_IN}
    return {**row, name: [*row[name], answer]}, False


def _fields(segment: Segment) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(segment.text) if name]


def row_of(text: str, like: Row, template: Sequence[Segment] | None = None, layout: Layout | None = None) -> Row:
    """A question as a row of the form that a model was trained on.

    Args:
        text: The question.
        like: A row of its training.
        template: Segments that rows are filled into.
        layout: The columns that a person named.

    Example:
        >>> row_of("Hi", {"instruction": "Add", "input": "1 + 1", "output": "2"})
        {'instruction': 'Hi'}
        >>> row_of("Hi", {"messages": [{"role": "system", "content": "Be brief."}]})
        {'messages': [{'role': 'user', 'content': 'Hi'}]}
    """
    if template is not None:
        asks = [name for segment in template if not segment.weight for name in _fields(segment)]
        names = [name for name in dict.fromkeys(asks) if name not in ("bos", "eos", "start")]
        if len(names) != 1:
            allowed = f"a template with one column before the answer; this has {', '.join(names) or 'none'}"
            raise ConfigError("--text", text, f"{allowed} (--data.predict_path FILE takes rows)")
        return {names[0]: text}
    if layout is not None:
        return {(layout.asks or layout.needs)[0]: text}
    for name in CONVERSATIONS:
        if name in like:
            one: Any = {"role": "user", "content": text}
            return {"messages": [one]}
    asked = next((name for name in QUESTIONS if holds(like.get(name))), None)
    return {asked: text} if asked is not None else {"text": text}
