"""Data that are made up: tasks whose answer is known."""
