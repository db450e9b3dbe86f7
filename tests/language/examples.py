"""The callbacks, methods, data modules and metrics of this family in small."""

from typing import Any

import torch

from lit_ft.callbacks import CoBa, EditingScores, PrefillCost, SampledText, StopBelowLoss, TaskScore
from lit_ft.data import (
    AnswerOptions,
    DatasetDecomposition,
    FactEdits,
    Instructions,
    JoinedText,
    ManyShot,
    Mixture,
    MixtureOfDenoisers,
    ModelEdits,
    ScoredText,
    StreamedInstructions,
    ToolConversations,
)
from lit_ft.methods import (
    MaskedThought,
    OptionScoring,
    PreferencePretraining,
    SupervisedFineTuning,
    TextGeneration,
)
from lit_ft.metrics import AnswerAccuracy, TokenPerplexity, ToolCallReward
from tests.example import LLAMA, OfCallback, OfMetric, OfRun, drawn, texts, written

NETWORK: Any = {"config": LLAMA}
STEADY: Any = {"config": {**LLAMA, "attention_dropout": 0.0}}
CALL = '{"name": "f", "arguments": {"x": 1}}'
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "get_a", "arguments": {}}]},
        {"role": "tool", "content": "Error: Invalid API call."},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "get_a", "arguments": {}}]},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "seven"},
    ],
    "tools": [{"name": "get_a"}, {"name": "get_b"}],
}


def sft() -> SupervisedFineTuning:
    return SupervisedFineTuning(NETWORK)


def learner(reduction: Any = "token") -> SupervisedFineTuning:
    """Without dropout, and with steps that move it."""
    return SupervisedFineTuning(STEADY, reduction, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))


def instructions() -> Instructions:
    return Instructions(texts("text"), batch_size=4, max_length=64)


def lessons() -> Instructions:
    rows = [{"prompt": f"q{i}", "completion": "ab" * i, "task": "xy"[i % 2]} for i in range(1, 13)]
    return Instructions(written("lessons.jsonl", rows), batch_size=1, val_fraction=0.25, task_column="task")


def questions() -> AnswerOptions:
    rows = [{"prompt": f"q{i}", "answer": "ab"[i % 2]} for i in range(1, 13)]
    return AnswerOptions(written("questions.jsonl", rows), options={"a": "yes", "b": "no"}, val_fraction=0.5)


def choices() -> AnswerOptions:
    rows = [{"prompt": f"q{i}", "choices": ["one", "two " * (1 + i % 3)], "answer": i % 2} for i in range(24)]
    path = written("choices.jsonl", rows)
    return AnswerOptions(path, options_column="choices", shots=1, batch_size=4, val_fraction=0.2)


def model_edits() -> ModelEdits:
    edits = [
        {"prompt": f"q{i} " + "p" * (i % 9), "target": "c" * (1 + i % 7), "paraphrase": f"a{i}", "locality": f"yes {i}"}
        for i in range(40)
    ]
    return ModelEdits(written("edits.jsonl", edits), "depth_first", passes=4, batch_size=4)


def mixture() -> Mixture:
    other = [{"prompt": f"o{i}", "completion": "d" * (1 + i % 5)} for i in range(12)]
    sources = {"texts": Instructions(texts("text")), "other": Instructions(written("other.jsonl", other))}
    return Mixture(sources, temperature=2.0, batch_size=4)  # type: ignore[arg-type]


def conversations() -> ToolConversations:
    rows = [{**CONVERSATION, "number": i} for i in range(24)]
    return ToolConversations(written("conversations.jsonl", rows), batch_size=2)


EXAMPLES = {
    "AnswerAccuracy": OfMetric(AnswerAccuracy, lambda n: (["a", "b"], ["a", "ab"[n % 2]])),
    "AnswerOptions": OfRun(lambda: OptionScoring(NETWORK), choices),
    "CoBa": OfCallback(lambda: CoBa(2, 2, 3), module=lambda: learner("task"), data=lessons),
    "DatasetDecomposition": OfRun(
        sft, lambda: DatasetDecomposition(texts(), smallest=2, largest=4, tokens_per_batch=64, cycles=2)
    ),
    "EditingScores": OfCallback(
        lambda: EditingScores(every_n_steps=3),
        module=learner,
        data=lambda: FactEdits(edits=6, facts=9, passes=3, batch_size=2),
    ),
    "Instructions": OfRun(sft, instructions),
    "JoinedText": OfRun(sft, lambda: JoinedText(texts(), context=16, tokens_per_batch=64)),
    "ManyShot": OfRun(sft, lambda: ManyShot(texts(), shots=2, batch_size=4, max_length=64)),
    # it masks by the share of the run that is over
    "MaskedThought": OfRun(lambda: MaskedThought(NETWORK), instructions, lasting=False),
    "Mixture": OfRun(sft, mixture),
    "MixtureOfDenoisers": OfRun(sft, lambda: MixtureOfDenoisers(texts(), batch_size=4, val_fraction=0.2)),
    "ModelEdits": OfRun(sft, model_edits),
    "OptionScoring": OfRun(lambda: OptionScoring(NETWORK), choices),
    "PreferencePretraining": OfRun(
        lambda: PreferencePretraining(NETWORK, objective="advantage_weighted", beta=1.0),
        lambda: ScoredText(texts(), threshold=1.0, drop_marks=0.5, batch_size=4),
    ),
    "PrefillCost": OfCallback(lambda: PrefillCost(rounds=1), module=learner, data=lessons),
    "SampledText": OfCallback(lambda: SampledText("a", samples=4, max_new_tokens=5), module=learner, data=lessons),
    "ScoredText": OfRun(
        lambda: PreferencePretraining(NETWORK),
        lambda: ScoredText(texts(), threshold=1.0, drop_marks=0.5, batch_size=4),
    ),
    "StopBelowLoss": OfCallback(
        lambda: StopBelowLoss(1.0), no_op=lambda: StopBelowLoss(1e-9), lasting=lambda: StopBelowLoss(1e-9)
    ),
    "StreamedInstructions": OfRun(
        sft, lambda: StreamedInstructions(texts("text"), epoch_batches=10, buffer=12, batch_size=4, max_length=64)
    ),
    "SupervisedFineTuning": OfRun(sft, instructions),
    "TaskScore": OfCallback(lambda: TaskScore({"task": questions()}), module=learner, data=lessons),
    "TextGeneration": OfRun(lambda: TextGeneration(NETWORK), instructions),
    "TokenPerplexity": OfMetric(TokenPerplexity, lambda n: tuple(drawn(n)(2))),
    "ToolCallReward": OfMetric(lambda: ToolCallReward({"f": ["x"]}), lambda n: ([CALL[: 9 + 99 * (n % 2)]], [CALL])),
    "ToolConversations": OfRun(sft, conversations),
}
