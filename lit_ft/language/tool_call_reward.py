"""The reward of generated tool calls, by rules."""

from __future__ import annotations

from lit_ft.core.errors import ConfigError
from lit_ft.language.answers import AnswerMetric
from lit_ft.language.tool_reward import parsed_call, tool_call_reward


class ToolCallReward(AnswerMetric):
    """Mean reward of the first call in each answer, from -2 (no readable call) to 1 (the right call).

    See :func:`~lit_ft.language.tool_reward.tool_call_reward`. Rows must expect a call.

    Args:
        tools: Parameter names of each tool, by its name.

    Source: TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use (E58), where it
    is the reward of PPO.

    Example:
        >>> metric = ToolCallReward(tools={"add": ["a", "b"]})
        >>> right = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
        >>> metric.update([right, "3"], [right, right])  # 1 and -2
        >>> metric.compute()
        tensor(-0.5000)
    """

    def __init__(self, tools: dict[str, list[str]]) -> None:
        super().__init__()
        if not tools:
            raise ConfigError("tools", tools, "at least one tool with the names of its parameters")
        self.tools = tools

    def score(self, answer: str, expected: str) -> float:
        """The reward of an answer, given the expected call."""
        right = parsed_call(expected)
        if right is None or right.name not in self.tools:
            given = expected if right is None else right.name
            raise ConfigError("tools", given, f"rows that expect a call of {', '.join(self.tools)}")
        return tool_call_reward(answer, right, self.tools)
