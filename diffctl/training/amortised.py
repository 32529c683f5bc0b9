"""Losses on simulated pairs: every batch of clean images is measured anew.

With f(y) the features of a measurement y ~ p(y | x0), the mean over x0 and y of

1. regression              |h(f) - x0|^2 / d
2. conditional flow        -log q(x0 | f) / d,   up to a constant
3. conditional denoising   the loss of `DenoisingLoss` for a network that is given f

(1) is least for the posterior mean, where it is tr S / d with S the covariance of the
posterior; (2) for the posterior, where it is the entropy; (3) for E[x0 | x_sigma, y].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import NoiseModel, Operator, Problem, simulate
from diffctl.priors.generative.amortised import with_features
from diffctl.priors.preconditioning import EDMPreconditioning
from diffctl.pytree import pytree_dataclass, static
from diffctl.training.generative import flow_energy
from diffctl.training.objectives import DenoisingLoss


@pytree_dataclass
class Simulation:
    """Measurements of clean signals, and what a network is given of them.

    Args:
        operator, noise: what is simulated.
        features: as that of the solver which will use the network.
    """

    operator: Operator
    noise: NoiseModel
    features: Callable[[Problem], jax.Array] = static()

    def problem(self, key: jax.Array, x0: jax.Array) -> Problem:
        """Draw a measurement of `x0`, (*shape)."""
        y = simulate(key, self.operator, self.noise, x0)
        return Problem(y=y, operator=self.operator, noise=self.noise)

    def __call__(self, key: jax.Array, x0: jax.Array) -> jax.Array:
        """Draw a measurement of `x0` and return its features."""
        return self.features(self.problem(key, x0))

    def batch(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return features (N, ...) of images (N, *shape)."""
        return jax.vmap(self)(jax.random.split(key, len(images)), images)


@pytree_dataclass
class RegressionLoss:
    """(1), for a network `net(f)`."""

    pairs: Simulation

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        estimates = jax.vmap(net)(self.pairs.batch(key, images))
        return jnp.mean((estimates.reshape(images.shape) - images) ** 2)


@pytree_dataclass
class ConditionalFlowLoss:
    """(2), for a network with `net.inverse(x, f)`, both flattened.

    Args:
        pairs: the simulation.
        smoothing: () std of noise on the clean images, as in `FlowLoss`.
    """

    pairs: Simulation
    smoothing: Any = 0.0

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        key_pairs, key_noise = jax.random.split(key)
        features = self.pairs.batch(key_pairs, images)
        noise = standard_normal(key_noise, images)

        def example(x: jax.Array, f: jax.Array) -> jax.Array:
            return flow_energy(*net.inverse(x.reshape(-1), f.reshape(-1)))

        return jnp.mean(jax.vmap(example)(images + self.smoothing * noise, features))


@pytree_dataclass
class ConditionalDenoisingLoss:
    """(3), for a network that is given [c_in x, f] along the channels.

    Args:
        pairs: the simulation; its features have the shape of the signal.
        denoising: noise levels and weights.
    """

    pairs: Simulation
    denoising: DenoisingLoss = DenoisingLoss(preconditioning=EDMPreconditioning())

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        key_pairs, key_noise = jax.random.split(key)
        features = self.pairs.batch(key_pairs, images)
        sigma, eps = self.denoising.draw(key_noise, images)

        def example(x0: jax.Array, eps: Any, sigma: Any, f: jax.Array) -> jax.Array:
            return self.denoising.example(with_features(net, f), x0, eps, sigma)

        return jnp.mean(jax.vmap(example)(images, eps, sigma, features))
