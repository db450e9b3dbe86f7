"""What every language method shares: segments with weights, chat, losses, read-outs, packing."""
