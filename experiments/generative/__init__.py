"""Generators, flows, energies and amortised networks, trained and used on digits."""
