"""Sentence embeddings with a feed-forward expert for each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lit_ft.core.checks import Range, checked
from lit_ft.core.classes import NamesClasses
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.embedding.experts import RoutedEncoder
from lit_ft.embedding.sentence_embedding import SentenceEmbedding


class ExpertEmbedding(NamesClasses, SentenceEmbedding):
    r"""One encoder for several domains: shared attention, separate feed-forward layers.

    Every feed-forward layer is copied ``experts`` times; a text goes through the copy of its domain, which the data
    give (``label`` of ``TextPairs``; expert i is the i-th of its values: numbers by size, then texts). No router is
    learned. With ``homogeneous`` batches a step trains one expert, and negatives come from the same domain; in mixed
    batches every row uses the expert of its domain. The export writes one folder for each expert.

    Under DDP the strategy must be ``ddp_find_unused_parameters_true``, as ranks may use different experts.

    Reads :class:`~lit_ft.embedding.batch.PairsBatch`, with ``labels``. Logs what :class:`SentenceEmbedding` logs.
    Memory: ``experts`` times the feed-forward weights; the time of a step does not change.

    Args:
        network: A sentence-transformers folder, an encoder, or a causal language model; without an adapter.
        experts: Number of domains, at least 2 (:class:`SentenceEmbedding` has one). Paper: 3.
        **kwargs: As in :class:`SentenceEmbedding`. Paper: in-batch contrast, scale 20.

    Source: Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings (E41). Deviation: the domain
    comes with the row, not as a special token at the first position of its text.

    See also: :class:`SentenceEmbedding`, :func:`~lit_ft.embedding.experts.expand_to_experts`.

    Example:
        >>> config = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "tokenizer": "bytes"}
        >>> model = ExpertEmbedding({"config": config}, experts=2)
        >>> first, second = (model.encode_domain(["a text"], domain) for domain in range(2))
        >>> first.shape, bool((first == second).all())  # before training, all experts are equal
        (torch.Size([1, 8]), True)
    """

    def __init__(self, network: Network, experts: Annotated[int, Range(low=2)] = 2, **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        if self.spec is not None and self.spec.peft is not None:
            raise ConfigError("network.peft", self.spec.peft, "null: the experts themselves are trained")
        self.experts = experts

    def build_network(self) -> nn.Module:
        """The encoder with its pooling and its experts."""
        from lit_ft.embedding.sentence_encoder import sentence_encoder

        assert self.spec is not None
        return RoutedEncoder(sentence_encoder(self.spec, self.pooling), self.experts)

    def setup(self, stage: str) -> None:
        """Refuse a strategy that waits for gradients of unused experts."""
        super().setup(stage)
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ConfigError(
                "trainer.strategy", "ddp", "ddp_find_unused_parameters_true: a step leaves experts unused"
            )

    def embed(self, batch: Mapping[str, Tensor], rows: slice | Tensor = slice(None)) -> Tensor:
        """Vectors of some texts, each by the expert of its domain."""
        assert isinstance(self.network, RoutedEncoder)
        if "domains" not in batch:
            raise ConfigError("domain", None, "encode_domain(texts, domain): a text alone does not say its expert")
        with self.network.route.to(batch["domains"][rows]):
            return super().embed(batch, rows)

    def _all(self, batch: Mapping[str, Tensor]) -> Tensor:
        labels = batch.get("labels")
        if labels is None:
            raise ConfigError("data.label", None, "the column of the domain, which says the expert")
        if int(labels.max()) >= self.experts:
            raise ConfigError("experts", self.experts, f"at least {int(labels.max()) + 1}, the domains of the data")
        domains = labels.repeat(len(batch["input_ids"]) // len(labels))
        return super()._all({**batch, "domains": domains})

    def encode_domain(
        self,
        texts: str | Sequence[str],
        domain: int,
        max_length: int = 256,
        dtype: torch.dtype | str | None = None,
    ) -> Tensor:
        """Vectors of texts of one domain, shape (texts, width); of one text, one vector (width,).

        Args:
            texts: A text, or any number of texts.
            domain: Number of the expert.
            max_length: Longest text in tokens.
            dtype: As in ``encode``.
        """
        self.configure_model()
        assert isinstance(self.network, RoutedEncoder)
        dense = SentenceEmbedding(self.network.dense(domain))  # type: ignore[arg-type]
        dense._tokenizer = self.tokenizer
        dense.configure_model()
        dense.to(self.device)  # a new LightningModule takes its device to be the CPU
        return dense.encode(texts, max_length=max_length, dtype=dtype)
