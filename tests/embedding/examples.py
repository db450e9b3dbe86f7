"""The methods and data modules of this family in small."""

from typing import Any

from lit_ft.data import LabelTriplets, TextPairs
from lit_ft.embedding.contrastive import Triplet
from lit_ft.methods import ExpertEmbedding, SentenceEmbedding
from tests.example import BERT, OfRun, texts, written

NETWORK: Any = {"config": {**BERT, "num_hidden_layers": 2}}


def pairs() -> TextPairs:
    return TextPairs(texts(), batch_size=4)


def domains() -> TextPairs:
    rows = [{"anchor": "a" * (1 + i), "positive": "b" * (9 - i % 9), "domain": "xy"[i % 2]} for i in range(24)]
    path = written("domains.jsonl", rows)
    return TextPairs(path, label="domain", batch_size=3, val_fraction=0.0, homogeneous=True)


def triplets() -> LabelTriplets:
    rows = [{"text": f"{kind} {i}", "kind": kind} for kind in "uvwxyz" for i in range(6)]
    return LabelTriplets(written("kinds.jsonl", rows), target="kind", batch_size=4, val_fraction=0.25)


EXAMPLES = {
    "ExpertEmbedding": OfRun(lambda: ExpertEmbedding(NETWORK), domains),
    "LabelTriplets": OfRun(lambda: SentenceEmbedding(NETWORK, Triplet()), triplets),
    "SentenceEmbedding": OfRun(lambda: SentenceEmbedding(NETWORK), pairs),
    "TextPairs": OfRun(lambda: SentenceEmbedding(NETWORK), pairs),
}
