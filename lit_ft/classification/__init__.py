"""Classes of rows: text, numbers."""
