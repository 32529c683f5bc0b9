"""Generators, autoencoders, flows, energies, and maps learned from pairs."""
