"""Token examples: what all data modules of language share."""
