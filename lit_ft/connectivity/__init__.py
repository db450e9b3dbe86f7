"""Paths between networks, and the loss along them."""
