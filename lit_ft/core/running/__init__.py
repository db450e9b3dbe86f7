"""What a run writes, remembers and needs around it."""
