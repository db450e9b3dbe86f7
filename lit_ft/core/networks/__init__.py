"""Networks: what they are, their parameters by name and role, their weights."""
