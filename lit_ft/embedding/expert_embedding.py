"""Sentence embeddings with a feed-forward expert for each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lit_ft.core.checks import Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.embedding.experts import RoutedEncoder
from lit_ft.embedding.sentence_embedding import SentenceEmbedding


class ExpertEmbedding(SentenceEmbedding):
    r"""One encoder for several domains: shared attention, and feed-forward layers of each domain's own.

    Every feed-forward layer is copied ``experts`` times; a text goes through the copy of its domain, which the data
    name (``label`` of ``TextPairs``; its values in alphabetic order are the experts). No router is learned. With
    ``homogeneous`` batches a step trains one expert, and negatives come from the same domain; other batches are sorted
    out row by row. Exported, every expert is a folder of its own.

    Under DDP the strategy is ``ddp_find_unused_parameters_true``, as a rank may use other experts than the next.

    Logs what ``SentenceEmbedding`` does. Memory: the feed-forward weights ``experts`` times; time of a step as without.

    Args:
        network: A sentence-transformers folder, an encoder, or a causal language model; without an adapter.
        experts: Number of domains, at least 2 (``SentenceEmbedding`` has one). Paper: 3.
        **kwargs: As in :class:`SentenceEmbedding`. Paper: in-batch contrast, scale 20.

    Source: Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings (E41). Deviation: the domain
    comes with the row, not as a special token at the first position of its text.
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
        """Refuse a strategy that waits for gradients of experts which a rank did not use."""
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

    def encode_domain(self, texts: Sequence[str], domain: int, max_length: int = 256) -> Tensor:
        """Vectors of texts of one domain, shape (texts, width).

        Args:
            texts: Any number of texts.
            domain: Number of the expert.
            max_length: Longest text in tokens.
        """
        self.configure_model()
        assert isinstance(self.network, RoutedEncoder)
        dense = SentenceEmbedding(self.network.dense(domain))  # type: ignore[arg-type]
        dense._tokenizer = self.tokenizer
        dense.configure_model()
        dense.to(self.device)  # a module of its own takes itself to be on the CPU until it is told
        return dense.encode(texts, max_length=max_length)
