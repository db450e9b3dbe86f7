"""Callbacks that first train all weights and then a part of them."""
