"""lit_ft: a modular trainer for fine-tuning research on PyTorch Lightning."""

__version__ = "0.1.0"
