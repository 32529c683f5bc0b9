"""Solvers for priors that are generators, flows or energies."""
