"""Pairs: preferences, and related texts."""
