"""The reward of a tool call, by rules."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from lit_ft.language.tool_calls import CLOSE, OPEN, ToolCall


def parsed_call(text: str) -> ToolCall | None:
    """The first call in a text, between its marks or as bare JSON; None if there is none.

    Example:
        >>> parsed_call('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
        ToolCall(name='add', arguments={'a': 1})
        >>> parsed_call("The sum is 3.") is None
        True
    """
    inner = text.partition(OPEN.strip())[2].partition(CLOSE.strip())[0] if OPEN.strip() in text else text
    try:
        found = json.loads(inner)
    except json.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    name, arguments = found.get("name"), found.get("arguments")
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def tool_call_reward(text: str, right: ToolCall, tools: Mapping[str, Collection[str]]) -> float:
    """Reward of a generated call, for reinforcement learning.

    ==== =============================================
    -2   no readable call, or an unknown tool
    -1.5 the wrong tool
    -1.8 unknown, superfluous and missing arguments
    -1.3 unknown, and superfluous or missing arguments
    -1   superfluous and missing arguments
    -0.8 unknown arguments
    -0.5 superfluous or missing arguments
    -.25 wrong values
    +1   the right call
    ==== =============================================

    The three faults together cost more than the wrong tool, as in the paper.

    Args:
        text: The generated text.
        right: The expected call.
        tools: Parameter names of each tool, by its name.

    Source: TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use (E58). Here an
    argument is superfluous if the tool has it but the right call does not.

    See also: :class:`~lit_ft.metrics.ToolCallReward`.

    Example:
        >>> right, tools = ToolCall("add", {"a": 1, "b": 2}), {"add": ["a", "b"], "sub": ["a", "b"]}
        >>> texts = ("3", ToolCall("sub", {}).text, ToolCall("add", {"a": 1}).text, right.text)
        >>> [tool_call_reward(text, right, tools) for text in texts]
        [-2.0, -1.5, -0.5, 1.0]
    """
    call = parsed_call(text)
    if call is None or call.name not in tools:
        return -2.0
    if call.name != right.name:
        return -1.5
    unknown = bool(call.arguments.keys() - set(tools[call.name]))
    redundant = bool(call.arguments.keys() & set(tools[call.name]) - right.arguments.keys())
    missing = bool(right.arguments.keys() - call.arguments.keys())
    if unknown:
        return {0: -0.8, 1: -1.3, 2: -1.8}[redundant + missing]
    if redundant or missing:
        return -1.0 if redundant and missing else -0.5
    return 1.0 if call.arguments == right.arguments else -0.25
