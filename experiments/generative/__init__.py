"""Generators, flows, energies, latent diffusion and amortised networks on digits."""
