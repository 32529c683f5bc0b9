"""A latent law that is exactly known: a Gaussian, decoded by a matrix.

    z0 ~ N(m, C) (3),  x0 = D z0 + b (5),  y = A x0 + 0.3 n (2)

The encoder is any matrix, not the inverse of D, so that gluing terms do not vanish.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffctl.diffusion import NoiseGrid
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianPrior, LatentDiffusionPrior, LinearAutoencoder

LATENT, SIZE, NUM_MEASURED = 3, 5, 2
NOISE_STD = 0.3


class LatentBed(NamedTuple):
    mean: np.ndarray
    covariance: np.ndarray
    decoder: np.ndarray
    encoder: np.ndarray
    offset: np.ndarray
    matrix: np.ndarray
    y: np.ndarray

    def gaussian(self) -> GaussianPrior:
        return GaussianPrior.from_moments(self.mean, self.covariance)

    def prior(self) -> LatentDiffusionPrior:
        parts = map(jnp.asarray, (self.decoder, self.encoder, self.offset))
        names = ("decoder", "encoder", "offset")
        autoencoder = LinearAutoencoder(**dict(zip(names, parts, strict=True)))
        return LatentDiffusionPrior.create(autoencoder, self.gaussian())

    def problem(self) -> Problem:
        return Problem(
            y=jnp.asarray(self.y),
            operator=DenseMatrix.from_array(jnp.asarray(self.matrix)),
            noise=GaussianNoise(std=NOISE_STD),
        )

    def jacobian(self, sigma: float) -> np.ndarray:
        return np.linalg.solve(
            self.covariance + sigma**2 * np.eye(LATENT), self.covariance
        ).T

    def denoise(self, z: np.ndarray, sigma: float) -> np.ndarray:
        return self.mean + self.jacobian(sigma) @ (z - self.mean)

    def decode(self, z: np.ndarray) -> np.ndarray:
        return self.decoder @ z + self.offset

    def encode(self, x: np.ndarray) -> np.ndarray:
        return self.encoder @ (x - self.offset)

    def residual(self, z: np.ndarray) -> np.ndarray:
        return self.matrix @ self.decode(z) - self.y


def latent_bed() -> LatentBed:
    rng = np.random.default_rng(11)
    root = rng.normal(size=(LATENT, LATENT)) / 2
    return LatentBed(
        mean=rng.normal(size=LATENT) / 3,
        covariance=root @ root.T + 0.1 * np.eye(LATENT),
        decoder=rng.normal(size=(SIZE, LATENT)) / 2,
        encoder=rng.normal(size=(LATENT, SIZE)) / 2,
        offset=rng.normal(size=SIZE) / 4,
        matrix=rng.normal(size=(NUM_MEASURED, SIZE)) / 2,
        y=rng.normal(size=NUM_MEASURED),
    )


def grid(num_steps: int = 5) -> NoiseGrid:
    return NoiseGrid.from_sigmas(np.geomspace(6.0, 0.1, num_steps))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
