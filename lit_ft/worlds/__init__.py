"""Generated data with known answers."""
