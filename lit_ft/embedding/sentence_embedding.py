"""Embeddings of texts, trained so that related texts have near vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.embedding.batch import PairsBatch
from lit_ft.embedding.contrastive import EmbeddingLoss, InBatchContrastive, Vectors, comparisons, triplet_accuracy
from lit_ft.embedding.text_pairs import checked_template, encode_texts, padded
from lit_ft.tokens.language_method import LanguageMethod
from lit_ft.tokens.pooling import Pooling, pool
from lit_ft.tokens.positions import check_positions
from lit_ft.tokens.segments import Segment

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class SentenceEmbedding(LanguageMethod):
    r"""Trains one vector per text by a loss over related texts.

    Reads :class:`PairsBatch`.

    Works with encoders and with causal language models; for the latter ``template: echo`` of ``TextPairs`` lets every
    pooled token see the whole text.

    Logs, besides ``loss``: ``accuracy``, the share of anchors whose positive is nearer (by cosine) than every other
    positive and negative of their batch, without repeated texts; and with negatives ``triplet_accuracy``, the share of
    (anchor, positive, own negative) whose positive is nearer. Metrics read the cosines of each anchor with the
    positives and negatives of its batch, without repeated texts, and 1 for its own positive, else 0; both of shape
    (comparisons,).

    Args:
        network: A sentence-transformers folder, an encoder, or a causal language model.
        loss: ``InBatchContrastive`` (None), ``Triplet`` or ``Matryoshka``.
        pooling: ``mean``, ``last``, ``cls`` or ``max`` over the pooled tokens; None takes that of the folder, else
            ``mean``.
        chunk_size: Texts per forward pass in training. Each chunk is computed again in the backward pass: less memory
            for one more forward pass, and still the gradient of the whole batch (GradCache). None stores all
            activations. Texts of similar length are always batched together.
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    Source: J. M. Springer et al., Repetition Improves Language Model Embeddings, 2024, arXiv:2402.15449 (A2); chunks
    as in L. Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021,
    arXiv:2101.06983, by recomputation in the backward pass.

    See also: :class:`~lit_ft.data.TextPairs`, :class:`~lit_ft.embedding.contrastive.InBatchContrastive`,
        :class:`~lit_ft.methods.ExpertEmbedding`.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "tokenizer": "bytes"}
        >>> model = SentenceEmbedding({"config": config})
        >>> vectors = model.encode(["a cat", "a dog", "a cat"])
        >>> vectors.shape, torch.allclose(vectors.norm(dim=1), torch.ones(3)), torch.allclose(vectors[0], vectors[2])
        (torch.Size([3, 8]), True, True)
    """

    batch: ClassVar[type] = PairsBatch

    def __init__(
        self,
        network: Network,
        loss: EmbeddingLoss | None = None,
        pooling: Pooling | None = None,
        chunk_size: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.loss = InBatchContrastive() if loss is None else loss
        self.pooling, self.chunk_size = pooling, chunk_size

    def build_network(self) -> nn.Module:
        """The encoder with its pooling."""
        from lit_ft.embedding.sentence_encoder import sentence_encoder

        assert self.spec is not None
        return sentence_encoder(self.spec, self.pooling)

    def embed(self, batch: Mapping[str, Tensor], rows: slice | Tensor = slice(None)) -> Tensor:
        """Vectors of some texts of a batch, shape (texts, width), trimmed to the longest of them."""
        network = self.network
        mask = batch["attention_mask"][rows]
        length = int(mask.sum(1).max())
        mask = mask[:, :length]
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"][rows, :length], "attention_mask": mask}
        if getattr(network.config, "use_cache", False):
            inputs["use_cache"] = False
        hidden = network.encoder(**inputs).last_hidden_state
        vectors = pool(hidden, batch["pool_mask"][rows, :length], network.pooling)
        return nn.functional.normalize(vectors, dim=-1) if network.normalize else vectors

    def _all(self, batch: Mapping[str, Tensor]) -> Tensor:
        order = batch["attention_mask"].sum(1).argsort(descending=True, stable=True)
        again = self.chunk_size is not None and torch.is_grad_enabled()
        # texts of similar length go through together; the number of parts is the same on all ranks
        size = self.chunk_size if again else max(8, -(-len(order) // 8))
        embed = partial(checkpoint, self.embed, use_reentrant=False) if again else self.embed
        return torch.cat([embed(batch, rows) for rows in order.split(size)])[order.argsort()]

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the anchors."""
        rows, columns = batch["keys"].shape
        texts = self._all(batch).float().unflatten(0, (columns, rows))
        negatives = texts[2:].transpose(0, 1) if columns > 2 else None
        vectors = Vectors(texts[0], texts[1], negatives, batch["keys"], batch.get("labels"))
        with torch.autocast(texts.device.type, enabled=False):  # products in bf16 cannot distinguish near texts
            losses = self.loss(vectors)
            with torch.no_grad():
                scalars = {"accuracy": (InBatchContrastive(gather=False, scale=1e4)(vectors) < 0.6931).float().mean()}
                if negatives is not None:
                    scalars["triplet_accuracy"] = triplet_accuracy(vectors)
                compared: tuple[Tensor | None, Tensor | None] = (None, None)
                if not self.training:
                    compared = comparisons(vectors)
        return Output(losses.mean(), *compared, scalars)

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float:
        """Number of rows."""
        return float(len(batch["keys"]))

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Vectors of shape (rows, columns, width)."""
        rows, columns = batch["keys"].shape
        return self._all(batch).unflatten(0, (columns, rows)).transpose(0, 1)

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Tensor) -> list[dict[str, Any]]:
        """The vector of each column."""
        columns = getattr(data_of(self), "columns", None) or [str(number) for number in range(predictions.shape[1])]
        return [{"vectors": dict(zip(columns, row, strict=True))} for row in predictions.tolist()]

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[str],
        template: str | Sequence[Segment] | None = None,
        max_length: int = 256,
        tokens_per_batch: int = 2048,
        dtype: torch.dtype | str | None = None,
    ) -> Tensor:
        """Vectors of texts, shape (texts, width), in the order of the texts; of one text, one vector (width,).

        Args:
            texts: A text, or any number of texts.
            template: As in ``TextPairs``: ``echo``, segments, or None.
            max_length: Longest text in tokens.
            tokens_per_batch: Most tokens in a batch, padding included; at least one text.
            dtype: ``bfloat16`` or ``float16`` computes matrix products in it and gives vectors in float32: faster where
                the processor has such products, several times slower elsewhere, at a cosine of .9999 to the exact
                vectors. None takes the type of the weights, or of an autocast around.
        """
        if isinstance(texts, str):
            return self.encode([texts], template, max_length, tokens_per_batch, dtype)[0]
        if dtype not in (None, *HALF.values(), *HALF):
            raise ConfigError("dtype", dtype, f"{', '.join(HALF)}, or None for the type of the weights")
        texts = list(texts)
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError("texts", texts[:3], "a text, or a list of texts")
        self.configure_model()
        encoded = encode_texts(self.tokenizer, texts, checked_template(template), max_length)
        check_positions("max_length", max(map(len, encoded), default=0), self.network.encoder)
        empty = next((number for number, text in enumerate(encoded, start=1) if not any(text.embed)), None)
        if empty is not None:
            raise ConfigError("texts", f"number {empty}", "texts with at least one token that is pooled")
        if not encoded:
            return torch.empty(0, self.network.config.hidden_size, device=self.device)
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        parts, start = [], 0
        with evaluating(self.network), self._products_in(dtype):
            while start < len(order):
                size = max(1, tokens_per_batch // len(encoded[order[start]]))
                batch = padded([encoded[i] for i in order[start : start + size]], self.tokenizer.pad_token_id or 0)
                parts.append(self.embed({name: tensor.to(self.device) for name, tensor in batch.items()}))
                start += size
        if dtype is not None:
            parts = [part.float() for part in parts]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(parts[0].device)]

    def _products_in(self, dtype: torch.dtype | str | None) -> AbstractContextManager[Any]:
        half: Any = HALF.get(str(dtype), dtype)
        return nullcontext() if half is None else torch.autocast(self.device.type, half)
