"""What a run writes and remembers."""
