"""The command ``lit-ft``: what was asked for, built and run; its tools."""
