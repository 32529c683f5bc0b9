"""Solvers that bring the measurement in on the clean image, without network gradients.

DAPS samples the clean image, DDS and DiffPIR correct its estimate, and RED-diff descends
on it.
"""
