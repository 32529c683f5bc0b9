"""Solvers in latent spaces: of an autoencoder, or of a sampler as a generator."""
