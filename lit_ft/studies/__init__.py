"""Running and judging studies."""
