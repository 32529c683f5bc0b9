"""Losses of generators, autoencoders, flows and energies; all per pixel.

With d pixels, q(z|x) = N(m(x), s(x)^2), z = m + s e, and n ~ N(0, I):

1. VAE       [|x - G(z)|^2 / (2 g^2) + d log g + sum(m^2 + s^2 - log s^2 - 1) / 2] / d
2. flow      [|g^{-1}(x)|^2 / 2 - log |det dg^{-1}/dx|] / d   at x + smoothing n
3. energy    sigma^2 |grad E(x + sigma n) - n / sigma|^2 / d
4. GAN       softplus(-C(G(z)))                               for the generator G
             softplus(C(G(z))) + softplus(-C(x)) + r/2 |grad C(x)|^2   for the critic C

(3) is denoising score matching at one level: E is the energy of slightly noisy images,
and no chain is run, unlike in contrastive divergence. The two parts of (4) are added,
each with the other network held fixed, so that one optimiser steps both at once.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.normal import standard_normal
from diffctl.priors.generative.networks import confined_energy
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class AutoencoderLoss:
    """(1), minus the evidence lower bound, for a `SmallAutoencoder`.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        def example(x: jax.Array, key: jax.Array) -> jax.Array:
            mean, log_variance = net.encode(x)
            noise = jax.random.normal(key, mean.shape, x.dtype)
            decoded = net.decode(mean + jnp.exp(log_variance / 2) * noise)
            std = net.decoder_std()
            misfit = jnp.mean((x - decoded) ** 2) / (2 * std**2) + jnp.log(std)
            excess = mean**2 + jnp.exp(log_variance) - log_variance - 1
            return misfit + jnp.sum(excess) / (2 * x.size)

        return jnp.mean(jax.vmap(example)(images, _keys(key, images)))


@pytree_dataclass
class FlowLoss:
    """(2), for a `CouplingFlow`.

    Args:
        smoothing: () std of noise on the images. Without it the likelihood of images
            with constant pixels grows without bound.
    """

    smoothing: Any = 0.05

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        noise = standard_normal(key, images)

        def example(x: jax.Array) -> jax.Array:
            return flow_energy(*net.inverse(x.reshape(-1)))

        return jnp.mean(jax.vmap(example)(images + self.smoothing * noise))


def flow_energy(z: jax.Array, log_det: jax.Array) -> jax.Array:
    """Return -log p(x) / d up to a constant, (), from z (d,) and log |det dz/dx|."""
    return (jnp.sum(z**2) / 2 - log_det) / z.size


@pytree_dataclass
class ScoreMatchingLoss:
    """(3), for the network of an `EnergyPrior`.

    Source: Vincent, "A connection between score matching and denoising autoencoders",
    Neural Computation 2011.

    Args:
        sigma: () noise level.
        spread: that of the prior.
    """

    sigma: Any = 0.3
    spread: Any = 3.0

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        def example(x: jax.Array, key: jax.Array) -> jax.Array:
            noise = standard_normal(key, x)
            slope = jax.grad(lambda x: confined_energy(net, x, self.spread))(
                x + self.sigma * noise
            )
            return jnp.mean((self.sigma * slope - noise) ** 2)

        return jnp.mean(jax.vmap(example)(images, _keys(key, images)))


@pytree_dataclass
class Adversaries:
    """The two networks of a GAN, trained as one."""

    generator: Any  # (latent,) -> (*shape)
    critic: Any  # (*shape) -> one number, large for real images


@pytree_dataclass
class AdversarialLoss:
    """(4), for `Adversaries`.

    Sources: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014 (with the
    non-saturating loss); Mescheder et al., "Which training methods for GANs do actually
    converge?", ICML 2018 (the penalty).

    Args:
        latent: length of z.
        penalty: () r, on gradients of the critic at real images.
    """

    latent: int = static()
    penalty: Any = 0.1

    def __call__(
        self, net: Adversaries, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        fixed = jax.lax.stop_gradient(net)

        def example(x: jax.Array, key: jax.Array) -> jax.Array:
            z = jax.random.normal(key, (self.latent,), x.dtype)
            fooled = jax.nn.softplus(-_judge(fixed.critic, net.generator(z)))
            false = jax.nn.softplus(_judge(net.critic, fixed.generator(z)))
            judgement, slope = jax.value_and_grad(_judge, argnums=1)(net.critic, x)
            roughness = self.penalty / 2 * jnp.sum(slope**2)
            return fooled + false + jax.nn.softplus(-judgement) + roughness

        return jnp.mean(jax.vmap(example)(images, _keys(key, images)))


def _judge(critic: Any, x: jax.Array) -> jax.Array:
    return jnp.sum(critic(x))


def _keys(key: jax.Array, images: jax.Array) -> jax.Array:
    return jax.random.split(key, len(images))
