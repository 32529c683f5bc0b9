"""Losses: `objective(net, key, images, labels) -> ()`, the mean over a batch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffctl.numerics.normal import standard_normal
from diffctl.priors.network import apply_preconditioned
from diffctl.priors.preconditioning import EDMPreconditioning
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class DenoisingLoss:
    """The EDM loss: E (sigma^2 + s^2) / (sigma s)^2 |D(x0 + sigma eps; sigma) - x0|^2.

    ln(sigma) is normal; its quantiles are stratified over the batch, which removes most
    of the variance that random noise levels add to the gradient. `s` is the
    preconditioning's `sigma_data`; the norm is averaged over pixels.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
    Models", 2022, table 1 (the stratification is ours).
    """

    preconditioning: EDMPreconditioning
    log_sigma_mean: float = -0.8
    log_sigma_std: float = 1.4
    dtype: Any = static(default=None)

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        sigma, eps = self.draw(key, images)
        example = partial(self.example, net)
        return jnp.mean(jax.vmap(example)(images, eps, sigma))

    def draw(self, key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return noise levels (N,) and standard normal noise for images (N, *shape)."""
        level_key, noise_key = jax.random.split(key)
        sigma = self._noise_levels(level_key, len(images), images.dtype)
        return sigma, standard_normal(noise_key, images)

    def example(
        self, net: Any, x0: jax.Array, eps: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        """Return the loss of one image."""
        noisy = x0 + sigma * eps
        x0_hat = apply_preconditioned(
            net, self.preconditioning, noisy, sigma, self.dtype
        )
        spread = self.preconditioning.sigma_data
        weight = (sigma**2 + spread**2) / (sigma * spread) ** 2
        return weight * jnp.mean((x0_hat - x0) ** 2)

    def _noise_levels(self, key: jax.Array, count: int, dtype: Any) -> jax.Array:
        quantile = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count
        quantile = jnp.clip(quantile, 1e-6, 1 - 1e-6)
        normal = jax.scipy.special.ndtri(quantile)
        return jnp.exp(self.log_sigma_mean + self.log_sigma_std * normal).astype(dtype)


@pytree_dataclass
class ClassificationLoss:
    """Cross-entropy under random shifts of up to `max_shift` pixels."""

    max_shift: int = static(default=2)

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        bounds = (-self.max_shift, self.max_shift + 1)
        shifts = jax.random.randint(key, (len(images), 2), *bounds)

        def example(x: jax.Array, shift: jax.Array, label: jax.Array) -> jax.Array:
            logits = net(jnp.roll(x, shift, axis=(0, 1)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)

        return jnp.mean(jax.vmap(example)(images, shifts, labels))
