"""Tool calls as text, the tokens in them that choose a tool or give a value, and turns that failed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.tokens.segments import Encoded, Segment

OPEN, CLOSE = "<tool_call>\n", "\n</tool_call>"
_BEFORE_NAME = '{"name": "'
_BRANCH, _VALUE = " branch", " value"


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Args:
        name: Name of the tool.
        arguments: Argument values by name.

    Example:
        >>> print(ToolCall("add", {"a": 1, "b": 2}).text)
        <tool_call>
        {"name": "add", "arguments": {"a": 1, "b": 2}}
        </tool_call>
    """

    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The call as a model writes it, in the form that Hermes and Qwen models use."""
        written = json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)
        return f"{OPEN}{written}{CLOSE}"


def tool_names(tools: Sequence[Mapping[str, Any]] | None, number: int) -> list[str]:
    """Names of the tools of a row; each is ``{name, ...}`` or ``{"type": "function", "function": {name, ...}}``.

    Example:
        >>> tool_names([{"name": "add"}, {"type": "function", "function": {"name": "search"}}], number=1)
        ['add', 'search']
    """
    names = []
    for tool in tools or ():
        name = (tool.get("function") or tool).get("name") if isinstance(tool, Mapping) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError("tools", name or tool, f"tools with names of letters, digits, _, - and . in row {number}")
        names.append(name)
    return names


def calls_of(message: Mapping[str, Any], names: Sequence[str], number: int) -> list[ToolCall]:
    """The calls of a message; each is ``{name, arguments}`` or ``{"function": {name, arguments}}``.

    Args:
        message: ``{role, content, tool_calls}``.
        names: Names of the tools of the row.
        number: Number of the row from 1, for errors.

    Example:
        >>> message = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": '{"a": 1}'}]}
        >>> calls_of(message, names=["add"], number=1)
        [ToolCall(name='add', arguments={'a': 1})]
    """
    calls = []
    for call in message.get("tool_calls") or ():
        inner = call.get("function") or call
        name, arguments = inner.get("name"), inner.get("arguments")
        if message.get("role") != "assistant":
            allowed = f"calls by the assistant alone; see row {number}"
            raise ConfigError("messages.tool_calls", message.get("role"), allowed)
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(
                "messages.tool_calls", name, f"a tool of row {number}: {known}{nearest(str(name), names)}"
            )
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except json.JSONDecodeError as error:
                raise ConfigError("messages.tool_calls", arguments, f"arguments as JSON in row {number}") from error
        if not isinstance(arguments, dict):
            raise ConfigError("messages.tool_calls", arguments, f"arguments by name for {name} in row {number}")
        calls.append(ToolCall(str(name), arguments))
    return calls


def failed_turns(messages: Sequence[Mapping[str, Any]], signs: Iterable[str]) -> set[int]:
    """Positions of the assistant's turns after which a tool answers with an error.

    Args:
        messages: ``{role, content}``; the answers of tools follow the turn that called them.
        signs: Texts that mark an error; compared by letters and digits only, in lower case.

    Example:
        >>> roles = ["user", "assistant", "tool", "assistant"]
        >>> contents = ["2 + 2?", "<call>", "Error: no such tool", "4"]
        >>> failed_turns([{"role": r, "content": c} for r, c in zip(roles, contents)], signs=["error:"])
        {1}
    """
    wanted, failed, turn = [_bare(sign) for sign in signs], set(), None
    for place, message in enumerate(messages):
        if message.get("role") == "tool":
            said = _bare(str(message.get("content")))
            if turn is not None and any(sign in said for sign in wanted):
                failed.add(turn)
        else:
            turn = place if message.get("role") == "assistant" else None
    return failed


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def branch_offsets(tokenizer: Any, name: str, others: Iterable[str]) -> list[int]:
    """Offsets in the name of a tool where its tokens diverge from those of other tools.

    The first token of the name always counts. A name that continues this one diverges after its last letter, at
    ``len(name)``.

    Args:
        tokenizer: A fast tokenizer of ``transformers``.
        name: Name of the tool that is called.
        others: Names of the other tools.

    Returns:
        Offsets in characters, ascending.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> branch_offsets(byte_tokenizer(), "get_time", ["get_date", "add"])  # g against a, t against d
        [0, 4]
    """

    def tokens(of: str) -> Any:
        text = f'{_BEFORE_NAME}{of}", "arguments"'
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    own, found = tokens(name), {0}
    for other in set(others) - {name}:
        pairs = zip(own["input_ids"], tokens(other)["input_ids"], strict=False)
        common = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
        found.add(max(0, own["offset_mapping"][common][0] - len(_BEFORE_NAME)))
    return sorted(found)


def value_spans(call: ToolCall) -> list[tuple[int, int]]:
    """Begin and end of each argument value in the text of a call.

    Example:
        >>> call = ToolCall("add", {"a": 12, "b": "x"})
        >>> [call.text[begin:end] for begin, end in value_spans(call)]
        ['12', '"x"']
    """
    cursor, spans = ToolCall(call.name, {}).text.index("{}") + 1, []
    for name, value in call.arguments.items():
        begin = cursor + len(f"{json.dumps(name, ensure_ascii=False)}: ")
        end = begin + len(json.dumps(value, ensure_ascii=False))
        spans.append((begin, end))
        cursor = end + len(", ")
    return spans


def turn_segments(
    said: str, calls: Sequence[ToolCall], branches: Mapping[str, Sequence[int]], weight: float, place: int
) -> list[Segment]:
    """A turn of the assistant as segments; tokens that choose a tool, and those of values, have tags of their own.

    Args:
        said: Text before the calls.
        calls: The calls.
        branches: Offsets for each name, from :func:`branch_offsets`.
        weight: Weight of all its tokens, before reweighting.
        place: Position of the turn in its conversation.

    Example:
        >>> segments = turn_segments("Well.", [ToolCall("add", {"a": 12})], {"add": [0]}, weight=1.0, place=1)
        >>> [(segment.text, segment.tag) for segment in segments if segment.claims]
        [('a', 'turn 1 branch'), ('12', 'turn 1 value')]
    """
    other = Segment("", "assistant", weight, tag=f"turn {place}")
    branch, value = (replace(other, tag=other.tag + kind, claims=True) for kind in (_BRANCH, _VALUE))
    segments = [replace(other, text=said)] if said else []
    for i, call in enumerate(calls):
        lead = "\n" if said or i else ""
        text, start, cursor = lead + call.text, len(lead + OPEN + _BEFORE_NAME), 0
        marked = [(start + offset, start + offset + 1, branch) for offset in branches[call.name]]
        marked += [(len(lead) + begin, len(lead) + end, value) for begin, end in value_spans(call)]
        for begin, end, kind in marked:
            segments += [replace(other, text=text[cursor:begin]), replace(kind, text=text[begin:end])]
            cursor = end
        segments.append(replace(other, text=text[cursor:]))
    return segments


def branch_weight(branches: int, others: int, most: float = 9.0) -> float:
    r"""Weight of a token that chooses a tool: :math:`\min(n_{other}/n_{branch},m)`, and never below 1.

    Args:
        branches: Number of such tokens in a turn.
        others: Number of its other targets.
        most: m, at least 1.

    Example:
        >>> branch_weight(branches=2, others=8), branch_weight(branches=1, others=100)
        (4.0, 9.0)
    """
    return min(others / branches, most) if 0 < branches < others else 1.0


def weigh_branches(example: Encoded, most: float = 9.0) -> Encoded:
    """Multiply the weights of the tokens that choose a tool, turn by turn; see :func:`branch_weight`.

    Example:
        >>> tags = ["turn 1", "turn 1", "turn 1 branch", "turn 1", "turn 1"]
        >>> weigh_branches(Encoded([5, 6, 7, 8, 9], [0.0, 1.0, 1.0, 1.0, 1.0], tags, [False] * 5)).weights
        [0.0, 1.0, 3.0, 1.0, 1.0]
    """
    targets = [tag if weight else "" for tag, weight in zip(example.tags, example.weights, strict=True)]
    for tag in {tag for tag in targets if tag.endswith(_BRANCH)}:
        places = [i for i, own in enumerate(targets) if own == tag]
        turn = tag.removesuffix(_BRANCH)
        weight = branch_weight(len(places), targets.count(turn) + targets.count(turn + _VALUE), most)
        for i in places:
            example.weights[i] *= weight
    return example


def weigh_values(example: Encoded, weight: float) -> Encoded:
    """Multiply the weights of the tokens that give the values of arguments.

    Example:
        >>> example = Encoded([5, 6], [0.0, 1.0], ["turn 1", "turn 1 value"], [False, False])
        >>> weigh_values(example, weight=0.5).weights
        [0.0, 0.5]
    """
    for i, tag in enumerate(example.tags):
        if tag.endswith(_VALUE):
            example.weights[i] *= weight
    return example
