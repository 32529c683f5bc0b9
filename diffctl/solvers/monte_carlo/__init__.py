"""Samplers whose only error, as particles or sweeps grow, is that of the model."""
