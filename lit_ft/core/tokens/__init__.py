"""Tokens: segments with weights, losses over them, packing."""
