"""Several checkpoints to one network."""
