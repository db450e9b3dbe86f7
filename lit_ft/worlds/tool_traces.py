"""Generated conversations with tools whose names are easily confused, and questions about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np

from lit_ft.core.checks import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveInt, Range, checked
from lit_ft.language.answer_options import AnswerOptions
from lit_ft.language.tool_calls import ToolCall
from lit_ft.language.tool_conversations import ERROR_SIGNS, ToolConversations
from lit_ft.sources.tables import Row

WORDS = {"find": "get", "change": "set", "mail": "user", "page": "site", "when": "date", "where": "place"}
TOOLS = [
    f"{verb}_{thing}{rest}" for verb in ("get", "set") for thing in ("user", "site") for rest in ("_date", "_place")
]


def trace(draw: np.random.Generator, error_share: float = 0.0) -> Row:
    """A request, a call, its result and an answer; sometimes a call of a similar tool, with its error, comes first.

    Args:
        draw: Random generator.
        error_share: Share of conversations that begin with a wrong call.

    Example:
        >>> for message in trace(np.random.default_rng(0))["messages"]:
        ...     print(message["role"], message.get("tool_calls") or message["content"])
        user change page where 2
        assistant [{'name': 'set_site_place', 'arguments': {'id': 2}}]
        tool 0
        assistant The answer is 0, as the tool says.
    """
    said = [("find", "change"), ("mail", "page"), ("when", "where")]
    words = [pair[draw.integers(2)] for pair in said]
    right, number = "_".join(WORDS[word] for word in words), int(draw.integers(10))
    messages: list[dict[str, Any]] = [{"role": "user", "content": " ".join([*words, str(number)])}]
    if draw.random() < error_share:
        place = draw.integers(3)
        other = dict(pair for pair in (said[place], said[place][::-1]))
        wrong = "_".join(WORDS[other[word] if i == place else word] for i, word in enumerate(words))
        messages += [_call(wrong, number), {"role": "tool", "content": "Invalid API call"}]
    result = int(draw.integers(10))
    messages += [_call(right, number), {"role": "tool", "content": str(result)}]
    messages.append({"role": "assistant", "content": f"The answer is {result}, as the tool says."})
    return {"messages": messages, "tools": [{"name": name} for name in TOOLS], "right": right, "number": number}


def _call(name: str, number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"name": name, "arguments": {"id": number}}]}


class ToolTraces(ToolConversations):
    """Requests of three words and a number; the words determine which of eight tools to call, the number its argument.

    The names of the tools begin alike (``get_user_date``, ``get_user_place``, ...). Some training conversations begin
    with a call of another tool, which is answered with an error.

    Args:
        conversations: Training conversations; validation has 100, without wrong calls.
        error_share: Share of training conversations with a wrong call, in [0, 1].
        max_weight: As in ``ToolConversations``.
        argument_weight: As in ``ToolConversations``.
        error_signs: As in ``ToolConversations``.
        list_tools: As in ``ToolConversations``; the tools are always the same here.
        batch_size: Conversations of a batch.
        seed: Seed of conversations and order.

    See also: :class:`ToolQuestions`, :class:`~lit_ft.data.ToolConversations`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = ToolTraces(conversations=4, batch_size=2)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> print(data.tokenizer.decode(batch["input_ids"][0][batch["weights"][0] > 0]))  # learned
        <tool_call>
        {"name": "set_site_place", "arguments": {"id": 5}}
        </tool_call></s>The answer is 9, as the tool says.</s>
    """

    def __init__(
        self,
        conversations: PositiveInt = 2000,
        error_share: ClosedUnitInterval = 0.2,
        max_weight: Annotated[float, Range(low=1)] = 9.0,
        argument_weight: NonNegativeFloat = 1.0,
        error_signs: list[str] = list(ERROR_SIGNS),  # noqa: B006  never changed
        list_tools: bool = False,
        batch_size: PositiveInt = 32,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            path="generated", max_weight=max_weight, argument_weight=argument_weight, error_signs=error_signs,
            list_tools=list_tools, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        checked(locals())
        self.conversations, self.error_share = conversations, error_share

    def _tables(self) -> dict[str, list[Row]]:
        training = np.random.default_rng((self.seed, 0))
        return {
            "train": [trace(training, self.error_share) for _ in range(self.conversations)],
            "val": _clean(self.seed),
            "test": [],
        }


class ToolQuestions(AnswerOptions):
    """Questions which call follows a request, for a model that learned from ``ToolTraces``.

    Options are calls of all tools, or the numbers from 0 to 9 as argument of the right tool. Needs a tokenizer with a
    chat template, and ``list_tools: false`` of the traces.

    Args:
        ask: Whether options differ in the ``tool`` or in its ``argument``.
        batch_size: Questions of a batch.
        seed: Seed of the conversations; the questions are the validation of ``ToolTraces`` with this seed.

    See also: :class:`ToolTraces`, :class:`~lit_ft.methods.OptionScoring`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = ToolQuestions(ask="tool", batch_size=1)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("validate")
        >>> batch = next(iter(data.val_dataloader()))
        >>> tuple(batch["input_ids"].shape)[:2], batch["labels"]
        ((1, 8), tensor([2]))
        >>> print(data.tokenizer.decode(batch["input_ids"][0, 0], skip_special_tokens=True))
        user
        find page when 8
        assistant
        <tool_call>
        {"name": "get_user_date", "arguments": {"id": 8}}
        </tool_call>
    """

    def __init__(
        self, ask: Literal["tool", "argument"] = "tool", batch_size: PositiveInt = 25, seed: NonNegativeInt = 0
    ) -> None:
        super().__init__(path="generated", options_column="options", prefix="", batch_size=batch_size, seed=seed)
        checked(locals())
        self.ask = ask

    def _tables(self) -> dict[str, list[Row]]:
        parts = {"train": _clean(self.seed, 2), "val": _clean(self.seed)}
        return {"test": [], **{split: [self._question(row) for row in rows] for split, rows in parts.items()}}

    def _question(self, row: Row) -> Row:
        before = self.tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, tokenize=False)
        right, number = row["right"], row["number"]
        pairs = [(name, number) for name in TOOLS] if self.ask == "tool" else [(right, n) for n in range(10)]
        options = [ToolCall(name, {"id": n}).text for name, n in pairs]
        return {"prompt": before, "options": options, "answer": ToolCall(right, {"id": number}).text}


def _clean(seed: int, part: int = 1) -> list[Row]:
    draw = np.random.default_rng((seed, part))
    return [trace(draw) for _ in range(100)]
