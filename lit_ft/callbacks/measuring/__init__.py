"""What is measured while any loss is trained."""
