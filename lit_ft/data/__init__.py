"""Data modules: what is in a batch, and in which order."""
