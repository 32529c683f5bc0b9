"""Solvers that fit a law to the posterior, per measurement or beforehand."""
