"""Conversations in the forms that files have, as one: a list of ``{role, content}``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lit_ft.core.errors import ConfigError

Message = dict[str, Any]

WORDS = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
"""Other words for the roles of messages."""

SYSTEM_ROLES = ("system", "developer")
_COMMON = {"role", "content"}
_CONTENTS = ("content", "value", "text", "parts")
_TURN = re.compile(r"\n\n(Human|Assistant):")


def messages_of(value: Any, number: int) -> list[Message]:
    """The messages of a conversation, which may also be written as text, one message, or a list of ``{input, output}``.

    A message is ``{role, content}`` or ``{from, value}``; its content is a text or a list of text parts. A message of
    the role ``function_call`` is an assistant's with ``tool_calls``; ``train`` or ``loss``, where it is true or false,
    is its ``weight``. Its other keys stay.

    Args:
        value: What stands in the column.
        number: Number of the row from 1, for errors.

    Example:
        >>> messages_of([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], number=1)
        [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yo'}]
        >>> messages_of([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], number=1)
        [{'role': 'user', 'content': 'Hi'}]
    """
    found = _parsed(value) if isinstance(value, str) else value
    found = [found] if isinstance(found, Mapping) else found
    if not isinstance(found, (list, tuple)) or not all(isinstance(message, Mapping) for message in found):
        raise ConfigError("messages", str(value)[:80], f"a list of {{role, content}} in row {number}")
    said: list[Message] = []
    for message in found:
        if set(message) == {"input", "output"}:
            said += [user(message["input"]), assistant(message["output"])]
        else:
            said.append(_message(message, number))
    return said


def user(text: Any) -> Message:
    """A text as the user's message.

    Example:
        >>> user("Hi")
        {'role': 'user', 'content': 'Hi'}
    """
    return {"role": "user", "content": _plain(text)}


def assistant(text: Any) -> Message:
    """A text as the assistant's message.

    Example:
        >>> assistant(12)
        {'role': 'assistant', 'content': '12'}
    """
    return {"role": "assistant", "content": _plain(text)}


def said_by(role: str, value: Any, number: int) -> list[Message]:
    """Messages from a column that holds a text of a role, a message, or a conversation.

    Example:
        >>> said_by("assistant", "Yo", number=1) == said_by("assistant", {"from": "gpt", "value": "Yo"}, number=1)
        True
    """
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):  # {messages, tools} of one provider
        if value.get("tools"):
            raise ConfigError("tools", str(value["tools"])[:80], f"no tools here; row {number} has some")
        return messages_of(value["messages"], number)
    if isinstance(value, (Mapping, list, tuple)):
        return messages_of(value, number)
    return [{"role": role, "content": _plain(value)}]


def is_said(value: Any) -> bool:
    """Whether a value is a message or a conversation, unlike a text.

    Example:
        >>> is_said("Hi"), is_said([{"role": "user", "content": "Hi"}]), is_said({"from": "gpt", "value": "Yo"})
        (False, True, True)
    """
    turns = [value] if isinstance(value, Mapping) else value
    return isinstance(turns, (list, tuple)) and bool(turns) and all(isinstance(turn, Mapping) for turn in turns)


def history_of(value: Any, number: int) -> list[Message]:
    """Earlier turns: a list of ``[question, answer]``, or of messages.

    Example:
        >>> [message["content"] for message in history_of([["Hi", "Yo"], ["And?", "Go."]], number=1)]
        ['Hi', 'Yo', 'And?', 'Go.']
    """
    found = _parsed(value) if isinstance(value, str) else value
    if isinstance(found, (list, tuple)) and found and all(_is_pair(turn) for turn in found):
        return [message for asked, answer in found for message in (user(asked), assistant(answer))]
    if not isinstance(found, (list, tuple)):
        raise ConfigError("history", str(value)[:80], f"a list of [question, answer] in row {number}")
    return messages_of(found, number)


def tools_of(value: Any, number: int) -> list[Any]:
    """Tools as a list, which may be written as JSON.

    Example:
        >>> tools_of('[{"name": "add"}]', number=1)
        [{'name': 'add'}]
    """
    found = (_parsed(value) if value.strip() else []) if isinstance(value, str) else value
    found = [found] if isinstance(found, Mapping) else found or []
    if not isinstance(found, (list, tuple)):
        raise ConfigError("tools", str(value)[:80], f"a list of tools, or one written as JSON, in row {number}")
    return [_parsed(tool) if isinstance(tool, str) else tool for tool in found]


def transcript(text: str) -> list[Message] | None:
    r"""The messages of a text with ``\n\nHuman:`` and ``\n\nAssistant:`` before its turns; None for another text.

    Example:
        >>> transcript("\n\nHuman: Hi\n\nAssistant: Yo")
        [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yo'}]
    """
    before, *turns = _TURN.split(text if text.startswith("\n") else f"\n\n{text}")
    if before.strip() or len(turns) < 2 or turns[0] != "Human":
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(turns[::2], turns[1::2], strict=True)]


def repeated(prompt: Sequence[Mapping[str, Any]], said: Sequence[Mapping[str, Any]], place: str) -> int:
    """How many messages at the beginning of an answer are those of its prompt, which is then whole in it.

    A system message may stand in one of them alone, and the prompt may be the last question of a longer beginning.

    Args:
        prompt: Messages of the prompt.
        said: The answer, or a conversation that has it at the end.
        place: The row, for errors.

    Example:
        >>> asked, answer = [user("Hi")], assistant("Yo")
        >>> repeated(asked, [answer], "row 1"), repeated(asked, [*asked, answer], "row 1")
        (0, 1)
        >>> repeated(asked, [user("And?"), answer], "row 1")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'And?'; allowed: an answer, or a conversation with the prompt in it,
            in row 1
    """
    asked, spoken = _keys(prompt), _keys(said)
    if not spoken or spoken[0][0] not in ("user", *SYSTEM_ROLES) or (asked and asked[-1][0] == "assistant"):
        return len(asked) * (0 < len(asked) < len(spoken) and spoken[: len(asked)] == asked)
    if spoken[0][0] in SYSTEM_ROLES and asked and asked[0][0] not in SYSTEM_ROLES:
        asked = [spoken[0], *asked]
    elif asked and asked[0][0] in SYSTEM_ROLES and spoken[0][0] not in SYSTEM_ROLES:
        asked = asked[1:]
    if spoken[: len(asked)] == asked:
        return len(asked)
    questions = [key for key in asked if key[0] not in SYSTEM_ROLES]
    if len(questions) == 1 and questions[0] in spoken:
        return len(spoken) - spoken[::-1].index(questions[0])
    allowed = f"an answer, or a conversation with the prompt in it, in {place}"
    raise ConfigError("path", str(said[0].get("content"))[:80], allowed)


def divided(prompt: list[Message], said: list[Message], place: str) -> tuple[list[Message], list[Message]]:
    """The prompt and the answer, where the answer may be a conversation that has the prompt in it.

    Example:
        >>> asked, answer = [user("Hi")], [assistant("Yo")]
        >>> divided(asked, [*asked, *answer], "row 1") == divided(asked, answer, "row 1") == (asked, answer)
        True
    """
    count = repeated(prompt, said, place)
    if not count:
        return prompt, said
    lead = prompt[:1] if prompt[0]["role"] in SYSTEM_ROLES and said[0]["role"] not in SYSTEM_ROLES else []
    return [*lead, *said[:count]], said[count:]


def text_of(content: Any, number: int) -> Any:
    """A content as a text where it is a list of text parts; anything else as it is.

    Example:
        >>> text_of([{"type": "text", "text": "Look: "}, {"type": "text", "text": "a bird"}], number=1)
        'Look: a bird'
    """
    content = content.get("parts", content) if isinstance(content, Mapping) else content
    if not isinstance(content, (list, tuple)):
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if not isinstance(text, str) or not str(kind).endswith("text"):
            raise ConfigError("messages.content", str(part)[:80], f"parts that are texts, in row {number}")
        texts.append(text)
    return "".join(texts)


def _keys(messages: Sequence[Any]) -> list[tuple[Any, str]]:
    return [(m.get("role"), str(m.get("content")).strip()) for m in messages if isinstance(m, Mapping)]


def _message(message: Mapping[str, Any], number: int) -> Message:
    if message.keys() == _COMMON and message["role"] in ("user", "assistant") and isinstance(message["content"], str):
        return dict(message)
    role_key = "role" if "role" in message else "from"
    content_key = next((key for key in _CONTENTS if message.get(key) is not None), "content")
    role, content = message.get(role_key), text_of(message.get(content_key), number)
    others = {key: value for key, value in message.items() if key not in (role_key, content_key, "content")}
    word = str(role).lower()
    role = WORDS.get(word, word if word in ("user", "assistant", "system", "tool") else role)
    if word == "function_call":
        role, content, others["tool_calls"] = "assistant", "", _calls(content, number)
    elif others.get("function_call"):
        others["tool_calls"] = [others.pop("function_call")]
    for flag in ("train", "loss"):
        if isinstance(others.get(flag), bool):
            marked = float(others.pop(flag))
            others["weight"] = marked if others.get("weight") is None else others["weight"]
    return {"role": role, "content": content, **others}


def _calls(content: Any, number: int) -> list[Any]:
    found = _parsed(content)
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, Mapping) for call in calls):
        raise ConfigError("messages", str(content)[:80], f"a call {{name, arguments}} as JSON in row {number}")
    return calls


def _parsed(text: Any) -> Any:
    """What a text writes as JSON, or as Python does where a list was put into a cell."""
    if not isinstance(text, str):
        return text
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    return text


def _plain(value: Any) -> Any:
    """Text, also of a number; what is neither is left for the check of contents to name."""
    return str(value) if isinstance(value, (int, float)) else value


def _is_pair(turn: Any) -> bool:
    return isinstance(turn, Sequence) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
