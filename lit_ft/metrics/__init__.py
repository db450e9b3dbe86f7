"""Numbers over predictions."""
