"""Vectors of texts, trained by contrast."""
