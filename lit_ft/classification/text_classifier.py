"""Classify texts."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.checks import checked
from lit_ft.core.facts import NumClasses, data_fact
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.problems import CLASSES, ClassWeights, ProblemType, label_rows, readable
from lit_ft.core.reads_labels import ReadsLabels
from lit_ft.tokens.language_method import LanguageMethod
from lit_ft.tokens.pooling import pool


class TextClassifier(ReadsLabels, LanguageMethod):
    r"""Fine-tuning of an encoder or decoder with a head for one class, any number of classes, or a number.

    The loss is :math:`-\frac{1}{n}\sum_i \log p(y_i \mid x_i)` over the rows of the window, in float32; for several
    classes and numbers, and with weights, see :func:`~lit_ft.core.problems.label_loss`.

    Reads :class:`LabelledTextBatch`. Logs ``loss``, and in validation and test ``accuracy`` and ``f1`` (macro); of
    several classes a row ``map`` and ``f1`` (macro), of numbers ``absolute_error``, ``r2`` and ``pearson``. Metrics
    read logits of shape (rows, classes) and labels of shape (rows,); of several classes, probabilities and labels of
    shape (rows, classes); of numbers, both of shape (rows,).

    Args:
        network: Encoder or decoder; the head is new unless the path has one of this size.
        num_classes: At least 2; None takes it from the data module. Numbers have none.
        problem_type: What a label is: ``single_label_classification``, ``multi_label_classification`` or
            ``regression``; None takes it from the data module, without one it is one class.
        class_weights: What each class weighs in the loss: ``balanced``, or a mapping from its name to a number above 0
            (others weigh 1); None weighs all alike.
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    See also: :class:`~lit_ft.data.LabelledText`, :class:`~lit_ft.methods.OptionScoring`, which needs no head.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = TextClassifier({"config": config}, num_classes=2)
        >>> model.configure_model()
        >>> texts = model.tokenizer(["good", "not good"], padding=True, return_tensors="pt")
        >>> labels = torch.tensor([1, 0])
        >>> output = model.compute({**texts, "labels": labels})
        >>> expected = nn.functional.cross_entropy(output.predictions, labels)
        >>> output.predictions.shape, torch.isclose(output.loss, expected)
        (torch.Size([2, 2]), tensor(True))
    """

    batch: ClassVar[type] = LabelledTextBatch
    facts: ClassVar[tuple[str, ...]] = ("num_classes", "problem_type")

    def __init__(
        self,
        network: Network,
        num_classes: NumClasses | None = None,
        problem_type: ProblemType | None = None,
        class_weights: ClassWeights | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.num_classes, self.problem_type, self.class_weights = num_classes, problem_type, class_weights

    def build_network(self) -> nn.Module:
        """The network with a head of ``num_classes``, or of one number."""
        from lit_ft.models.build import sequence_classifier

        assert self.spec is not None
        return sequence_classifier(self.spec, self.outputs())

    def class_metrics(self) -> dict[str, Metric]:
        """Accuracy and macro F1."""
        classes = data_fact(self, "num_classes")
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1": MulticlassF1Score(classes, average="macro"),
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Outputs of the head, shape (rows, classes)."""
        return class_logits(self.network, input_ids, attention_mask, token_type_ids)

    def compute(self, batch: LabelledTextBatch) -> Output:
        """Mean loss over the rows."""
        logits = self(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")).float()
        labels = batch["labels"]
        loss = self.labels_loss(logits, labels)
        targets = labels.int() if self.problem == CLASSES else labels
        return Output(loss, predictions=readable(self.problem, logits), targets=targets)

    general = compute

    def predict_step(self, batch: LabelledTextBatch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """As ``compute`` gives them, also of rows without labels."""
        if "labels" in batch:
            return self.compute(batch).predictions
        logits = self(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")).float()
        return readable(self.problem, logits)

    def prediction_rows(self, batch: LabelledTextBatch, predictions: Tensor) -> list[dict[str, Any]]:
        """Classes and probabilities, or numbers."""
        return label_rows(self.problem, self.class_names, predictions, batch.get("labels"))

    def loss_weight(self, batch: LabelledTextBatch) -> Tensor | float:
        """Number of rows, or the weights of their classes."""
        return self.labels_weight(batch["labels"])

    def features(self, batch: LabelledTextBatch) -> Tensor:
        """Last hidden states, averaged over the tokens that are not padding; shape (rows, width)."""
        mask = batch["attention_mask"]
        types = {"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}
        output = self.network(input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True, **types)
        hidden = output.hidden_states[-1][:, -mask.shape[1] :]  # without what an adapter has put before the text
        return pool(hidden, mask, "mean")


def class_logits(
    network: nn.Module, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
) -> Tensor:
    """Logits of a sequence classifier, shape (rows, classes); the head of a decoder reads the last token of the mask.

    ``transformers`` takes the last token other than ``pad_token_id``, which is an earlier one where a text ends with a
    token that also pads.

    Args:
        network: A sequence classifier, with or without an adapter.
        input_ids: Token ids, shape (rows, tokens).
        attention_mask: 1 on tokens, 0 on padding on their right, shape (rows, tokens).
        token_type_ids: Which text of a pair a token is of; None where the network is not told.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import sequence_classifier
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9, "pad_token_id": 3}
        >>> network = sequence_classifier(Network(config={**config, "tokenizer": "bytes"}), num_labels=2).eval()
        >>> text, longer = torch.tensor([[5, 6, 3]]), torch.tensor([[5, 6, 3, 3]])  # the text ends with what pads
        >>> one = class_logits(network, text, torch.ones_like(text))
        >>> torch.allclose(one, class_logits(network, longer, torch.tensor([[1, 1, 1, 0]])))
        True
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if token_type_ids is not None:
        inputs["token_type_ids"] = token_type_ids
    adapters: Any = getattr(network, "peft_config", {})
    inner: Any = network.get_base_model() if adapters else network  # type: ignore[operator]
    in_front = any(one.is_prompt_learning for one in adapters.values())
    if in_front or not hasattr(inner, "score") or not hasattr(inner, inner.base_model_prefix):
        return network(**inputs).logits
    hidden = getattr(inner, inner.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
    last = attention_mask.sum(1) - 1
    return inner.score(hidden)[torch.arange(len(last), device=last.device), last]
