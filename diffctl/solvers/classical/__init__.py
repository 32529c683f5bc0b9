"""Solvers that minimise -log p(y | x) + R(x), with any regulariser or denoiser as R."""
