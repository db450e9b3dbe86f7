"""The callbacks of this family in small."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch.utils.data import default_collate

from lit_ft.callbacks import (
    ComposedDeltas,
    ForwardMask,
    GradientMask,
    HeadOffsets,
    LearnedGraft,
    LotteryTicket,
    SoftMask,
    TaskRegions,
    TrainingFlops,
)
from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.selection import Names, RandomElements, TopMagnitude
from lit_ft.methods import TextClassifier
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader
from lit_ft.sparse.unit_importance import UnitImportance
from lit_ft.testing import ForeignData
from tests.example import LLAMA, OfCallback

WORDS: Any = {
    "config": {**LLAMA, "tokenizer": None, "attention_dropout": 0.0, "num_hidden_layers": 2, "num_attention_heads": 4,
               "vocab_size": 8, "pad_token_id": 0, "max_position_embeddings": 128},
    "attention_bias": True,
}  # fmt: skip


class LabelledTokens(ForeignData):
    batch = LabelledTextBatch

    def _loader(self, training: bool) -> Any:
        ids = torch.randint(1, 8, (28, 3), generator=torch.Generator().manual_seed(0))
        rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": (i[0] < 4).long()} for i in ids]
        return make_loader(rows, shuffled_batches(28, 4, 5, training), default_collate, 5, training=training)  # type: ignore[arg-type]


def classifier() -> LightningModule:
    return TextClassifier(WORDS, num_classes=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))


def importance(value: torch.Tensor) -> str:
    """A file with the importance of the rows of the first layer."""
    save_file({"model.0.weight": value.expand(12, 6).contiguous()}, "importance.safetensors")
    return "importance.safetensors"


EXAMPLES = {
    "ComposedDeltas": OfCallback(lambda: ComposedDeltas([]), no_op=lambda: ComposedDeltas([])),
    "ForwardMask": OfCallback(lambda: ForwardMask(Names(["*.weight"]), init=0.006), one_process=True),
    "GradientMask": OfCallback(lambda: GradientMask(TopMagnitude(0.3)), no_op=lambda: GradientMask(Names(["*"]))),
    "GradientMask, whole tensors and elements": OfCallback(
        lambda: GradientMask(Names(["model.0.*"]) | RandomElements(0.3, patterns=["model.4.weight"]))
    ),
    "HeadOffsets": OfCallback(lambda: HeadOffsets(first_steps=4, density=0.3), module=classifier, data=LabelledTokens),
    "LearnedGraft": OfCallback(lambda: LearnedGraft(4, density=0.1, lr=10.0, bias=2.0)),
    "LotteryTicket": OfCallback(lambda: LotteryTicket(4, density=0.2)),
    "SoftMask": OfCallback(
        lambda: SoftMask(importance(torch.linspace(0, 1, 12)[:, None])),
        no_op=lambda: SoftMask(importance(torch.zeros(12, 1))),
    ),
    "SoftMask, importance of units": OfCallback(
        lambda: SoftMask(UnitImportance(LabelledTokens(), num_batches=2)), module=classifier, data=LabelledTokens
    ),
    "SoftMask, of a mapping": OfCallback(
        lambda: SoftMask({"model.0.weight": torch.full((12, 6), 0.5)}), no_op=lambda: SoftMask({})
    ),
    "TaskRegions": OfCallback(
        lambda: TaskRegions({"a": ForeignData(12), "b": ForeignData(12)}, density=0.2, steps=3),
        no_op=lambda: TaskRegions({"a": ForeignData(12)}, density=0.2, steps=3),
        one_process=True,
    ),
    "TrainingFlops": OfCallback(lambda: TrainingFlops(every_n_steps=3), no_op=TrainingFlops),
}
