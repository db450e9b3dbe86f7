"""The layouts of conversations, questions with answers, compared answers, marked answers, and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from lit_ft.core.errors import ConfigError
from lit_ft.sources.layouts import Layout, holds, named_layout
from lit_ft.sources.messages import (
    Message,
    divided,
    history_of,
    is_said,
    messages_of,
    said_by,
    tools_of,
    transcript,
    user,
)
from lit_ft.sources.table_files import Row, absent

CONVERSATIONS = ("messages", "conversations", "conversation", "contents")
QUESTIONS = {  # with the answers that they are known with, before which no other one is read
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
    "query": ("response", "answer"),
    "problem": ("solution",),
    "inputs": ("targets",),
    "input": ("output",),
}
ANSWERS = ("completion", "response", "output", "answer", "solution", "targets")
PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred_output", "non_preferred_output"),
)
LABELS = ("label", "kto_tag")
SYSTEMS = ("system", "system_prompt", "system_instruction", "systemInstruction")
MORE = ("input", "context")  # of a question, behind it
CHAT = ("instruction",)  # questions that are messages also where texts are not


class _Answered(Protocol):
    """What makes a row of a question with answers, each in columns that are yet to be said."""

    def __call__(
        self,
        row: Row,
        columns: frozenset[str],
        number: int,
        asks: Sequence[str],
        answers: Sequence[str],
        **how: Sequence[str],
    ) -> Row: ...


def asked(
    row: Row,
    columns: frozenset[str],
    number: int,
    asks: Sequence[str],
    systems: Sequence[str] = SYSTEMS,
    chat: Sequence[str] = CHAT,
) -> Any:
    r"""The question of a row: a text; or messages, where it is an instruction or has a system message or a history.

    Args:
        row: The row.
        columns: Columns that are read.
        number: Number of the row from 1, for errors.
        asks: Columns of the question; those that hold something are joined by a line break.
        systems: Columns of which one may hold the system message.
        chat: Columns that make messages of texts.

    Example:
        >>> row = {"question": "Who?", "context": "A heron.", "system": "Be brief."}
        >>> asked(row, frozenset(["question", "context"]), 1, ["question", "context"])
        'Who?\nA heron.'
        >>> asked(row, frozenset(["question", "system"]), 1, ["question"])
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Who?'}]
    """
    parts = [row[name] for name in asks if name in columns and holds(row.get(name))]
    question = parts[0] if parts else "" if absent(row.get(asks[0])) else row[asks[0]]
    if len(parts) > 1:
        if any(isinstance(part, (list, dict)) for part in parts):
            raise ConfigError("path", str(parts)[:80], f"texts in {' and '.join(asks)} of row {number}, to be joined")
        question = "\n".join(map(str, parts))
    if not is_said(question) and columns.isdisjoint((*systems, "history", *chat)):
        return question
    turns = [user(question)]
    if is_said(question):  # what an assistant says in it is not learned
        turns = [{**turn, "weight": turn.get("weight", 0.0)} for turn in said_by("user", question, number)]
    if "history" in columns and holds(row.get("history")):
        turns = [*history_of(row["history"], number), *turns]
    return with_system(turns, row, columns, number, systems)


def with_system(
    turns: list[Message], row: Row, columns: frozenset[str], number: int, systems: Sequence[str] = SYSTEMS
) -> list[Message]:
    """Messages behind the system message of a column, where one is read and holds something.

    Example:
        >>> with_system([user("Hi")], {"system": "Be brief."}, frozenset(["system"]), number=1)
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi'}]
    """
    for name in systems:
        if name not in columns or not holds(row.get(name)):
            continue
        said = {**said_by("system", row[name], number)[0], "role": "system"}
        if turns and turns[0]["role"] in ("system", "developer"):
            if turns[0]["content"] != said["content"]:
                allowed = f"one system message: row {number} has another one in its messages"
                raise ConfigError("path", f"{name}: {str(row[name])[:80]}", allowed)
            continue
        turns = [said, *turns]
    return turns


def _conversation(row: Row, columns: frozenset[str], number: int, name: str) -> Row:
    return {"messages": with_system(_turns(row[name], number, name), row, columns, number)}


def _turns(value: Any, number: int, name: str) -> list[Message]:
    """The messages of a conversation; of texts alone, the user and the assistant say them in turn."""
    texts = name.startswith("conversation") and isinstance(value, (list, tuple))
    if texts and len(value) > 1 and all(isinstance(text, str) for text in value):
        return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(value)]
    return messages_of(value, number)


def _text(row: Row, columns: frozenset[str], number: int) -> Row:
    return {"messages": None, "prompt": None, "completion": None}


def answered(
    row: Row, columns: frozenset[str], number: int, asks: Sequence[str], answers: Sequence[str], **how: Sequence[str]
) -> Row:
    """A question with its answer, as ``messages`` or as ``prompt`` and ``completion``.

    Example:
        >>> answered({"q": "Hi", "a": "Yo"}, frozenset("qa"), 1, ["q"], ["a"])
        {'messages': None, 'prompt': 'Hi', 'completion': 'Yo'}
    """
    question, value = asked(row, columns, number, asks, **how), row[answers[0]]
    if not is_said(question) and not is_said(value):
        return {"messages": None, "prompt": question, "completion": value}
    before = question if is_said(question) else [user(question)]
    turns, answer = divided(before, said_by("assistant", value, number), f"row {number}")
    if turns is not before:  # those of the answer itself: what an assistant says in them is not learned either
        turns = [{**turn, "weight": turn.get("weight", 0.0)} for turn in turns]
    return {"messages": [*turns, *answer]}


def compared(
    row: Row, columns: frozenset[str], number: int, asks: Sequence[str], answers: Sequence[str], **how: Sequence[str]
) -> Row:
    """A question with two answers, as ``prompt``, ``chosen`` and ``rejected``; texts, or lists of messages.

    Example:
        >>> compared({"q": "Hi", "a": "Yo", "b": "Go"}, frozenset("qab"), 1, ["q"], ["a", "b"])
        {'prompt': 'Hi', 'chosen': 'Yo', 'rejected': 'Go'}
    """
    sides: list[Any] = [messages_of(row[name], number) if is_said(row[name]) else row[name] for name in answers]
    if asks:
        return {"prompt": asked(row, columns, number, asks, **how), "chosen": sides[0], "rejected": sides[1]}
    if all(isinstance(side, str) for side in sides):
        turns = [transcript(side) for side in sides]
        if None in turns:
            names = " and ".join(answers)
            allowed = f"a prompt beside {names}, or conversations in them, as texts with Human: and Assistant: are"
            raise ConfigError("path", str(sides[0])[:80], f"{allowed}; see row {number}")
        sides = turns
    sides = [with_system(side, row, columns, number) if is_said(side) else side for side in sides]
    return {"prompt": None, "chosen": sides[0], "rejected": sides[1]}


def marked(
    row: Row, columns: frozenset[str], number: int, asks: Sequence[str], answers: Sequence[str], **how: Sequence[str]
) -> Row:
    """A question with an answer and whether it is desirable, as ``prompt``, ``completion`` and ``label``.

    Example:
        >>> marked({"q": "Hi", "a": "Yo", "l": True}, frozenset("qal"), 1, ["q"], ["a", "l"])
        {'prompt': 'Hi', 'completion': 'Yo', 'label': True, 'chosen': None}
    """
    answer, label = (row[name] for name in answers)
    question, said = asked(row, columns, number, asks, **how), answer
    if is_said(answer):
        before = question if is_said(question) else [user(question)]
        question, said = divided(before, messages_of(answer, number), f"row {number}")
    return {"prompt": question, "completion": said, "label": label, "chosen": None}


def _marked_conversation(row: Row, columns: frozenset[str], number: int, name: str, label: str) -> Row:
    turns = with_system(_turns(row[name], number, name), row, columns, number)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        last = turns[-1]["role"] if turns else None
        raise ConfigError(name, last, f"the assistant's turn at the end, which is the answer, in row {number}")
    return {"prompt": turns[:-1], "completion": turns[-1:], "label": row[label], "chosen": None}


def _with_tools(row: Row, columns: frozenset[str], number: int, name: str) -> Row:
    turns = with_system(messages_of(row[name], number), row, columns, number)
    tools = [tool for column in ("tools", "functions") for tool in tools_of(row.get(column), number)]
    return {"messages": turns, "tools": tools}


def _asking(read: _Answered, name: str, answers: tuple[str, ...]) -> Layout:
    asks = (name, *(more for more in MORE if more != name))
    may = (*SYSTEMS, "history", *asks[1:])
    without = QUESTIONS[name] if answers[0] in ANSWERS and answers[0] not in QUESTIONS[name] else ()
    return Layout((name, *answers), partial(read, asks=asks, answers=answers), may, asks, without)


SUPERVISED = (
    *(Layout((name,), partial(_conversation, name=name), SYSTEMS) for name in CONVERSATIONS),
    *(_asking(answered, name, (answer,)) for name in QUESTIONS for answer in ANSWERS),
    Layout(("text",), _text),
)
"""For ``Instructions``: conversations, questions with an answer, texts."""

PREFERENCES = (
    *(_asking(compared, name, sides) for name in QUESTIONS for sides in PAIRS),
    *(
        Layout(
            (name, *sides), partial(compared, asks=(name,), answers=sides), SYSTEMS, (name,), without=tuple(QUESTIONS)
        )
        for name in CONVERSATIONS
        for sides in PAIRS
    ),
    *(Layout(sides, partial(compared, asks=(), answers=sides), SYSTEMS) for sides in PAIRS),
)
"""For ``Preferences``: a question with two answers, or two conversations that begin alike."""

UNPAIRED = (
    *(_asking(marked, name, (answer, label)) for name in QUESTIONS for answer in ANSWERS for label in LABELS),
    *(
        Layout((name, label), partial(_marked_conversation, name=name, label=label), SYSTEMS)
        for name in CONVERSATIONS
        for label in LABELS
    ),
    *PREFERENCES,
)
"""For ``UnpairedPreferences``: a question with a marked answer, a conversation whose end is one, or pairs."""

TOOL_USE = tuple(
    Layout((name,), partial(_with_tools, name=name), may=(*SYSTEMS, "tools", "functions")) for name in CONVERSATIONS
)
"""For ``ToolConversations``: conversations with calls, and the tools."""


def chosen_layout(
    layout: str | None,
    named: Mapping[str, str | None],
    optional: Sequence[str],
    layouts: Sequence[Layout],
    read: _Answered,
) -> Layout | None:
    """The layout that a person names, by itself or by its columns; None leaves it to the table.

    Args:
        layout: Columns divided by a slash.
        named: Columns by argument, of which ``prompt`` is the question; None of them is left to the table.
        optional: Those arguments that are not needed.
        layouts: Layouts that have a name.
        read: What reads named columns: ``answered``, ``compared`` or ``marked``.

    Example:
        >>> columns = {"prompt": "q", "completion": "a", "system": None, "context": None}
        >>> layout = chosen_layout(None, columns, ("system", "context"), SUPERVISED, answered)
        >>> layout.read({"q": "Hi", "a": "Yo"}, layout.used(["q", "a"]), 1)["prompt"]
        'Hi'
    """
    given = {argument: column for argument, column in named.items() if column is not None}
    if layout is not None and given:
        raise ConfigError("layout", layout, f"null beside {' and '.join(given)}")
    if layout is not None:
        return named_layout(layout, layouts)
    if not given:
        return None
    needed = [argument for argument in named if argument not in optional]
    for argument in needed:
        if argument not in given:
            raise ConfigError(argument, None, f"a column, as {' and '.join(given)} named: all of {', '.join(needed)}")
    prompt, *answers = (given[argument] for argument in needed)
    context, system = given.get("context"), given.get("system")
    asks = (prompt, *([context] if context else (more for more in MORE if more not in given.values())))
    systems = (system,) if system else SYSTEMS
    how = partial(read, asks=asks, answers=tuple(answers), systems=systems, chat=())
    return Layout((prompt, *answers), how, (*systems, "history", *asks[1:]), asks, named=tuple(given.items()))
