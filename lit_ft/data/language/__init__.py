"""Token examples: from rows to batches with weights."""
