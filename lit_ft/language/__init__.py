"""Language models: methods, rows and measures."""
