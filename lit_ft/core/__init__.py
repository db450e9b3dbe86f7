"""The abstractions that everything else stands on. Import from the modules themselves."""
