"""Methods: what is optimised."""
