"""Learning from preferences, paired and not."""
