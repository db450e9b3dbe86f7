"""Images, and other rows of numbers, into classes."""
