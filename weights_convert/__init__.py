"""PyTorch checkpoints into Flax networks."""
