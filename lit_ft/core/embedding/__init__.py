"""Vectors of texts: pooling, contrastive losses, gathering over ranks."""
