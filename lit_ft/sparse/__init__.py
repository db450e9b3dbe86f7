"""Which weights move: masks, scores, sparse changes and their files."""
