"""The methods and data modules of this family in small."""

from typing import Any

from lit_ft.data import GaussianClusters, LabelledText, NoisyLinear
from lit_ft.methods import ImageClassifier, Regression, TextClassifier
from tests.example import BERT, MLP, OfRun, texts

FLAT: Any = {"config": MLP}


def classifier() -> TextClassifier:
    return TextClassifier({"config": {**BERT, "hidden_dropout_prob": 0.3}})  # type: ignore[arg-type]


def labelled(**arguments: Any) -> LabelledText:
    return LabelledText(texts(), batch_size=8, max_rows=32, **arguments)


def line() -> NoisyLinear:
    return NoisyLinear(rows=60, batch_size=6)


EXAMPLES = {
    "GaussianClusters": OfRun(lambda: ImageClassifier(FLAT), lambda: GaussianClusters(rows=50, batch_size=8)),
    "LabelledText": OfRun(classifier, lambda: labelled(seed=1)),
    "LabelledText, two workers": OfRun(classifier, lambda: labelled(num_workers=2)),
    "NoisyLinear": OfRun(lambda: Regression(FLAT), line),
    "Regression": OfRun(lambda: Regression(FLAT), line),
    "TextClassifier": OfRun(classifier, labelled),
}
