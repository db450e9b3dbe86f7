"""Callbacks that look for flat minima."""
