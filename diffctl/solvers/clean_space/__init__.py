"""Solvers that bring the measurement in on the clean image, not through the network.

DAPS samples the clean image, DDS and DiffPIR correct its estimate, RED-diff descends.
"""
