"""How a network is obtained: hub id, folder, GGUF file, packaged weights, or random weights from a config."""

from lit_ft.models.build import bare_encoder, causal_lm, masked_lm, sequence_classifier, tokenizer
from lit_ft.models.images import image_classifier

__all__ = [
    "bare_encoder",
    "causal_lm",
    "image_classifier",
    "masked_lm",
    "sequence_classifier",
    "tokenizer",
]
