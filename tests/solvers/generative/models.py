"""Generators, flows and energies whose posteriors are known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    AutoencodingPrior,
    ConditionalDiffusion,
    GenerativePrior,
    InvertiblePrior,
    LogDensityPrior,
)
from diffctl.priors import GaussianMixturePrior, GaussianPrior
from diffctl.pytree import pytree_dataclass
from tests.solvers.bed import SIZE

LATENT = 2


def product(matrix, x):
    return jnp.matmul(matrix, x, precision="highest")


@pytree_dataclass
class LinearGenerator(GenerativePrior):
    """G(z) = W z + b."""

    weights: jax.Array  # (d, k)
    offset: jax.Array  # (d,)

    @property
    def shape(self):
        return self.offset.shape

    @property
    def latent_shape(self):
        return self.weights.shape[1:]

    def decode(self, z):
        return product(self.weights, z) + self.offset


@pytree_dataclass
class TanhGenerator(LinearGenerator):
    """G(z) = W tanh(z) + b: bounded, and steep enough for several minima."""

    def decode(self, z):
        return product(self.weights, jnp.tanh(2 * z)) + self.offset


@pytree_dataclass
class LinearAutoencoder(LinearGenerator, AutoencodingPrior):
    """x0 = W z + b + decoder_std n; the encoder is a rough one."""

    decoder_std: Any = 0.5

    def encode(self, x):
        mean = product(self.weights.T, x - self.offset) / 3
        return mean, jnp.zeros_like(mean)


@pytree_dataclass
class TanhAutoencoder(LinearAutoencoder):
    """The autoencoder of a `TanhGenerator`, with a rough encoder."""

    def decode(self, z):
        return TanhGenerator.decode(self, z)


@pytree_dataclass
class AffineFlow(LinearGenerator, InvertiblePrior):
    """g(z) = M z + b with a square M."""

    def decode_with_log_det(self, z):
        return self.decode(z), jnp.linalg.slogdet(self.weights)[1]

    def invert(self, x):
        z = jnp.linalg.solve(self.weights, x - self.offset)
        return z, -jnp.linalg.slogdet(self.weights)[1]


@pytree_dataclass
class SinhFlow(InvertiblePrior):
    """x = scale sinh(z), entrywise."""

    scale: jax.Array  # (d,)

    @property
    def shape(self):
        return self.scale.shape

    @property
    def latent_shape(self):
        return self.scale.shape

    def decode_with_log_det(self, z):
        return self.scale * jnp.sinh(z), jnp.sum(jnp.log(self.scale * jnp.cosh(z)))

    def invert(self, x):
        ratio = x / self.scale
        log_det = -jnp.sum(jnp.log(self.scale) + jnp.log1p(ratio**2) / 2)
        return jnp.arcsinh(ratio), log_det


@pytree_dataclass
class QuadraticEnergy(LogDensityPrior):
    """E(x) = (x - m)^T P (x - m) / 2."""

    precision: jax.Array  # (d, d)
    mean: jax.Array  # (d,)

    @property
    def shape(self):
        return self.mean.shape

    def neg_log_density(self, x):
        return jnp.vdot(x - self.mean, product(self.precision, x - self.mean)) / 2


@pytree_dataclass
class MixtureEnergy(LogDensityPrior):
    """The exact density of a Gaussian mixture."""

    mixture: GaussianMixturePrior

    @property
    def shape(self):
        return self.mixture.shape

    def neg_log_density(self, x):
        return -self.mixture.log_density(x, jnp.zeros((), x.dtype))


@pytree_dataclass
class AffineMap(AmortisedEstimator):
    """x = K f + c."""

    gain: Any  # (d, m)
    shift: Any  # (d,)

    @property
    def shape(self):
        return self.shift.shape

    def estimate(self, features):
        return product(self.gain, features) + self.shift

    def __call__(self, features):
        return self.estimate(features)


@pytree_dataclass
class AffineSampler(AmortisedSampler):
    """x = K f + c + R z."""

    mean: AffineMap
    root: Any  # (d, d)

    @property
    def shape(self):
        return self.mean.shape

    latent_shape = shape

    def decode_given(self, z, features):
        return self.mean(features) + product(self.root, z)

    def inverse(self, x, context):
        z = jnp.linalg.solve(self.root, x - self.mean(context))
        return z, -jnp.linalg.slogdet(self.root)[1]


@pytree_dataclass
class ExactConditional(ConditionalDiffusion):
    """E[x0 | x_sigma, y] of a Gaussian, for one operator and noise level."""

    prior: GaussianPrior
    matrix: Any
    noise_std: Any

    @property
    def shape(self):
        return self.prior.shape

    def given(self, features):
        return self.prior.posterior(features, self.matrix, self.noise_std)


def generator(kind=LinearGenerator, latent=LATENT, **fields):
    rng = np.random.default_rng(11)
    weights = rng.normal(size=(SIZE, latent)) / 2 + np.eye(SIZE, latent)
    offset = rng.normal(size=SIZE) / 3
    return kind(weights=jnp.asarray(weights), offset=jnp.asarray(offset), **fields)


def quadratic(law):
    """The energy of a bed's own Gaussian prior."""
    precision = np.linalg.inv(law.covariance)
    return QuadraticEnergy(precision=jnp.asarray(precision), mean=jnp.asarray(law.mean))


def two_modes():
    """The density of two well separated Gaussians of weights 0.3 and 0.7."""
    means = 0.8 * np.stack([np.ones(SIZE), -np.ones(SIZE)])
    covariances = np.stack([0.1 * np.eye(SIZE), 0.08 * np.eye(SIZE)])
    law = GaussianMixturePrior.from_moments([0.3, 0.7], means, covariances)
    return MixtureEnergy(mixture=law)


def posterior(law, noise_std, mean, covariance):
    """Mean and covariance of x0 ~ N(mean, covariance) given the bed's measurement."""
    gram = law.matrix @ covariance @ law.matrix.T + noise_std**2 * np.eye(law.y.size)
    gain = np.linalg.solve(gram, law.matrix @ covariance).T
    shifted = mean + gain @ (law.y - law.matrix @ mean)
    return shifted, covariance - gain @ law.matrix @ covariance
