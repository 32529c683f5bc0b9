"""Posterior samplers on Gaussian mixtures whose posterior is known exactly."""
