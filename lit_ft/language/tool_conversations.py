"""Conversations with tool calls, for supervised fine-tuning with weights for the tokens of calls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

from lit_ft.core.checks import NonNegativeFloat, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.tool_calls import (
    branch_offsets,
    calls_of,
    failed_turns,
    tool_names,
    turn_segments,
    weigh_branches,
    weigh_values,
)
from lit_ft.sources.layouts import MEANINGFUL, TOOLS, named_layout, read_tables
from lit_ft.sources.tables import Row
from lit_ft.sources.text_layouts import TOOL_USE
from lit_ft.tokens.chat import checked_messages, encode_chat, message_segments
from lit_ft.tokens.segments import Encoded, Segment, Truncation, truncated
from lit_ft.tokens.token_data import ExampleLength, TokenData

ERROR_SIGNS = ("is not defined", "unexpected keyword", "400 client error", "invalid api call")


class ToolConversations(TokenData):
    r"""Rows ``{"messages": [...], "tools": [...]}`` with tool calls; the assistant's turns are learned.

    It differs from plain fine-tuning in three points:

    - Turns after which a tool answers with an error are inputs only.
    - In a turn with calls, the tokens at which the name of the tool diverges from that of another tool of the row, and
      its first token, have the weight :math:`\min(n_{other}/n_{branch},m)` but at least 1, with the numbers of these
      tokens and of the other targets of the turn; all others have weight 1.
    - The values of arguments have the weight ``argument_weight``.

    Messages are those of chat models: an assistant's may have ``tool_calls`` (``{name, arguments}``, or OpenAI's
    ``{"type": "function", "function": {...}}`` with arguments as an object or as JSON), followed by one message of the
    role ``tool`` for each result. They may also stand in ``conversations`` as ``{from, value}`` with ``function_call``
    and ``observation``; tools may be called ``functions``, and be written as JSON. Calls are written into the text of
    their message, ``<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>``, and tools, one a line, into the
    system message, so that any chat template with these roles works. The ``weight`` of a message multiplies those of
    its tokens.

    Errors name the row: a call of a tool that the row lacks, arguments that are not JSON, unknown roles. Rows whose
    targets are all cut off or failed are left out, with a warning that counts them. Needs a fast tokenizer with a chat
    template.

    Args:
        path: Table with the rows.
        max_weight: m, at least 1; 1 weighs all targets equally. Paper: 9.
        argument_weight: Weight of the tokens that give the values of arguments, 0 or more. The reference finds the ends
            of arguments and leaves them at 1.
        error_signs: Texts that mark the answer of a tool as an error, compared by letters and digits only; an empty
            list learns every turn. The paper's list has 13; the default has four of them.
        list_tools: Whether tools are written into the system message; false if it lists them already.
        max_length: Longest conversation in tokens.
        truncation: Which part of a longer conversation is cut: ``right``, ``left`` or ``prompt``.
        layout: Columns that are read, ``conversations/tools``; None chooses by the columns of the table.

    Source: TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use (E58);
    Junjie-Ye/TL-Training. Deviations: a conversation is one example with all its turns instead of one for each turn,
    so that the mean is over the targets of a batch; names diverge where their tokens do, found by character offsets.

    See also: :class:`~lit_ft.data.ToolTraces`, :class:`~lit_ft.metrics.ToolCallReward`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> calls = [{"name": "get_date", "arguments": {}}]
        >>> messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
        >>> row = {"messages": messages, "tools": [{"name": "get_date"}, {"name": "get_place"}]}
        >>> _ = Path("calls.jsonl").write_text(json.dumps(row))
        >>> data = ToolConversations("calls.jsonl", val_fraction=0.0, list_tools=False)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.decode(batch["input_ids"][0][batch["weights"][0] > 1])  # where names diverge
        'gd'
    """

    def __init__(
        self,
        path: str,
        max_weight: Annotated[float, Range(low=1)] = 9.0,
        argument_weight: NonNegativeFloat = 1.0,
        error_signs: list[str] = list(ERROR_SIGNS),  # noqa: B006  never changed
        list_tools: bool = True,
        max_length: ExampleLength = 1024,
        truncation: Truncation = "right",
        layout: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, max_length=max_length, task_column=None, **kwargs)
        checked(locals())
        if math.isinf(argument_weight):
            raise ConfigError("argument_weight", argument_weight, "a finite number")
        for sign in error_signs:
            if not any(letter.isalnum() for letter in sign):
                raise ConfigError("error_signs", sign, "texts with a letter or digit: any answer has this one")
        self.max_weight, self.argument_weight, self.error_signs = max_weight, argument_weight, list(error_signs)
        self.list_tools, self.truncation = list_tools, truncation
        self.layout = None if layout is None else named_layout(layout, TOOL_USE)

    def cache_key(self) -> Sequence[str]:
        """Weights and filter."""
        return [repr((self.max_weight, self.argument_weight, self.error_signs, self.list_tools, self.truncation))]

    def _tables(self) -> dict[str, list[Row]]:
        tables = super()._tables()
        numbers = {split: self._numbers(split, rows) for split, rows in tables.items()}
        how = {"chosen": self.layout, "guarded": frozenset(MEANINGFUL) - frozenset(TOOLS)}
        return read_tables(tables, numbers, self.source.paths(), TOOL_USE, hint=_hint, **how)

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Tokens and weights of each conversation."""
        branches = cache(lambda name, names: branch_offsets(tokenizer, name, names))
        found = [self._segments(row, number, branches) for row, number in zip(rows, numbers, strict=True)]
        # whole turns are weighed, then cut
        encoded = encode_chat(tokenizer, found, numbers=numbers)
        weighed = [weigh_values(weigh_branches(example, self.max_weight), self.argument_weight) for example in encoded]
        return [truncated(example, self.max_length, self.truncation) for example in weighed]

    def _segments(self, row: Row, number: int, branches: Callable[..., list[int]]) -> list[Segment]:
        names, messages = tuple(tool_names(row.get("tools"), number)), checked_messages(row["messages"], number)
        if self.list_tools and names:
            system = " ".join(str(m.get("content")) for m in messages if m.get("role") == "system")
            if all(f'"{name}"' in system for name in names):
                raise ConfigError("list_tools", True, f"false where the messages list tools, as in row {number}")
            messages = with_tools(messages, row["tools"])
        failed, segments = failed_turns(messages, self.error_signs), []
        for place, message in enumerate(messages):
            calls = calls_of(message, names, number)
            said = message.get("content")
            plain = {**message, "content": (said or "") if calls else said, "tool_calls": None}
            (segment,) = message_segments([plain], ["assistant"], number)
            segment = replace(segment, weight=0.0 if place in failed else segment.weight)
            if calls:
                parts = {call.name: branches(call.name, names) for call in calls}
                first, *rest = turn_segments(segment.text, calls, parts, segment.weight, place)
                segments += [replace(first, opens=segment.opens), *rest]
            else:
                segments.append(segment)
        return segments


def _hint(row: Row) -> str:
    return "rows with messages, or with conversations, and with tools"


def with_tools(messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the tools, one a line, at the end of the system message, which is added if there is none.

    Example:
        >>> messages = with_tools([{"role": "user", "content": "When?"}], [{"name": "get_date"}])
        >>> print(messages[0]["role"], messages[0]["content"])
        system Tools:
        {"name": "get_date"}
    """
    text = "\n".join(["Tools:", *(json.dumps(tool.get("function") or tool, ensure_ascii=False) for tool in tools)])
    if messages and messages[0].get("role") == "system":
        return [{**messages[0], "content": f"{messages[0].get('content')}\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
