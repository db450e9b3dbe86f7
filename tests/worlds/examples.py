"""The data modules of this family in small."""

from typing import Any

from lit_ft.data import (
    FactEdits,
    KnownFacts,
    MarkedCorpus,
    PermutedLabels,
    PermutedQuestions,
    SumChains,
    ToolQuestions,
    ToolTraces,
)
from lit_ft.methods import OptionScoring, PreferencePretraining, SupervisedFineTuning
from tests.example import LLAMA, OfRun

NETWORK: Any = {"config": LLAMA}


def sft() -> SupervisedFineTuning:
    return SupervisedFineTuning(NETWORK)


def scoring() -> OptionScoring:
    return OptionScoring(NETWORK)


EXAMPLES = {
    "FactEdits": OfRun(sft, lambda: FactEdits(edits=6, facts=9, passes=3, batch_size=2)),
    "KnownFacts": OfRun(sft, lambda: KnownFacts(20, batch_size=4)),
    "MarkedCorpus": OfRun(
        lambda: PreferencePretraining(NETWORK, objective="advantage_weighted", beta=1.0),
        lambda: MarkedCorpus(documents=32, threshold=0.0, drop_marks=0.5, batch_size=8),
    ),
    "PermutedLabels": OfRun(sft, lambda: PermutedLabels(sequences=40, shots=3, eval_sequences=4, batch_size=4)),
    "PermutedQuestions": OfRun(scoring, lambda: PermutedQuestions(shots=3, tasks=2, batch_size=4)),
    "SumChains": OfRun(sft, lambda: SumChains(40, asked=8, batch_size=4)),
    "ToolQuestions": OfRun(
        scoring, lambda: ToolQuestions(batch_size=4), {"limit_train_batches": 10, "limit_val_batches": 1}
    ),
    "ToolTraces": OfRun(sft, lambda: ToolTraces(conversations=40, batch_size=4)),
}
