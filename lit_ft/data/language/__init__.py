"""Rows of text and conversations as token examples."""
