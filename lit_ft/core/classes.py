"""What the classes of a classifier are called: known from the data, kept in the checkpoint, held against other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of

CLASSES = "class_names"


class NamesClasses(pl.LightningModule):
    """Mixed into a method whose outputs stand for classes: it knows what they are called.

    The names come from the data module of a fit and stay in the checkpoint. Data with other classes, or with the same
    ones in another order, are refused by later stages: their numbers would mean something else.

    See also: :func:`agreed`.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> model = ImageClassifier({"config": {"model_type": "mlp"}})
        >>> trainer = pl.Trainer(fast_dev_run=1, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, GaussianClusters(classes=3))
        >>> model.class_names
        ['0', '1', '2']
        >>> trainer.test(model, GaussianClusters(classes=2), verbose=False)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: data: given ...0, 1 of GaussianClusters...; allowed: ...0, 1, 2 (without: 2)
    """

    class_names: list[str] | None = None

    def setup(self, stage: str) -> None:
        """Take the names of a fit from its data; hold those of other stages against them."""
        super().setup(stage)
        data = data_of(self)
        theirs: list[str] = [str(name) for name in getattr(data, "class_names", None) or ()]
        outputs = getattr(self, "num_classes", None)
        if outputs is not None and outputs < len(theirs):
            raise ConfigError("num_classes", outputs, f"{len(theirs)} or more, the classes {_some(theirs)} of the data")
        known = self.class_names if stage != "fit" or not theirs else None
        self.class_names = agreed(theirs, known, type(data).__name__)

    def after_build(self, network: nn.Module) -> None:
        """Hold the names against those of a head that came with the network."""
        super().after_build(network)  # type: ignore[misc]
        told = named_head(network)
        if told is None or told == self.class_names:
            return
        if self.class_names is None:
            self.class_names = told
        elif self._trainer is not None and not self.trainer.ckpt_path:
            if self.trainer.state.fn != "fit":
                agreed(self.class_names, told, "the data")
            rank_zero_warn(
                f"the head of the network was trained for the classes {_some(told)}; it goes on with other ones of the"
                f" same number: {_some(self.class_names)}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the names."""
        super().on_save_checkpoint(checkpoint)
        if self.class_names is not None:
            checkpoint[CLASSES] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the names, or refuse those of the data that were set up before."""
        self.class_names = agreed(self.class_names, checkpoint.get(CLASSES), "the data")
        super().on_load_checkpoint(checkpoint)


def class_rows(
    names: Sequence[str] | None, scores: Tensor, labels: Tensor | None, word: str = "probabilities"
) -> list[dict[str, Any]]:
    """What ``predictions.jsonl`` says of rows with classes: the likeliest class, the expected one, and all scores.

    Args:
        names: Names of the classes by number; numbers stand for those that have none.
        scores: Shape (rows, classes); logits where they are ``probabilities``.
        labels: Numbers of the expected classes, shape (rows,); None is not known.
        word: What the scores are called.

    Example:
        >>> class_rows(["no", "yes"], torch.tensor([[0.0, 0.0], [-99.0, 99.0]]), torch.tensor([0, 0]))
        [{'label': 'no', 'expected': 'no', 'probabilities': {'no': 0.5, 'yes': 0.5}}, {'label': 'yes', ...}]
    """
    called = [*(names or ()), *map(str, range(len(names or ()), scores.shape[-1]))]
    best = [called[number] for number in scores.argmax(-1).tolist()]
    values = (scores.double().softmax(-1) if word == "probabilities" else scores).tolist()
    expected = [{}] * len(best) if labels is None else [{"expected": called[number]} for number in labels.tolist()]
    return [
        {"label": name, **right, word: dict(zip(called, row, strict=True))}
        for name, right, row in zip(best, expected, values, strict=True)
    ]


def named_head(network: nn.Module) -> list[str] | None:
    """What the classes of a network of ``transformers`` are called in its configuration; None where they have no names.

    Example:
        >>> named_head(nn.Linear(1, 2)) is None
        True
    """
    names = getattr(getattr(network, "config", None), "id2label", None) or {}
    found = [str(names[number]) for number in sorted(names)]
    return None if found == [f"LABEL_{number}" for number in range(len(found))] else found


def agreed(names: Sequence[str] | None, others: Sequence[str] | None, place: str) -> list[str] | None:
    """The names that both sides give; a side that knows none agrees with the other.

    Args:
        names: Names of the classes by number.
        others: The same of the other side.
        place: Whose the first names are, for the error.

    Raises:
        ConfigError: The names differ, or their order does.

    Example:
        >>> agreed(["no", "yes"], None, "the data")
        ['no', 'yes']
        >>> agreed(["no", "yes"], ["maybe", "no", "yes"], "the data")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: data: given ...no, yes...; allowed: ...maybe, no, yes (without: maybe)
    """
    if not names or not others or list(names) == list(others):
        return list(names or others or ()) or None
    new, gone = [n for n in names if n not in others], [n for n in others if n not in names]
    parts = [f"{word}: {_some(part)}" for word, part in (("new", new), ("without", gone)) if part]
    difference = "; ".join(parts) or "in another order"
    allowed = f"the classes that were trained: {_some(others)} ({difference})"
    raise ConfigError("data", f"classes {_some(names)} of {place}", allowed)


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
