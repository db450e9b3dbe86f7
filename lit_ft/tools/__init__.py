"""The small tools beside fit and test."""
