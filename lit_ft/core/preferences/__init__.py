"""Losses over preferred and rejected answers, paired and not."""
