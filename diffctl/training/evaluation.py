"""How good a trained network is on images it was not trained on."""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.numerics.batching import chunked_vmap


def denoising_error(
    prior: DiffusionPrior,
    images: jax.Array,
    sigma: jax.Array,
    key: jax.Array,
    *,
    chunk_size: int = 50,
) -> jax.Array:
    """Return E |D(x0 + sigma eps; sigma) - x0|^2 / d, the mean over images, ().

    Args:
        prior: the denoiser.
        images: clean images in [-1, 1], (N, *shape).
        sigma: noise level, ().
        key: of the noise; image i gets `fold_in(key, i)`.
        chunk_size: images denoised at once.

    Costs N forwards.
    """
    _require_images(images)
    return _denoising_error(prior, images, sigma, key, chunk_size)


def _require_images(images: jax.Array) -> None:
    if not len(images):
        raise ValueError("there are no images to average over; expected at least one.")


def _error(
    prior: Any, images: jax.Array, sigma: jax.Array, key: jax.Array, chunk_size: int
) -> jax.Array:
    def one(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        i, x0 = example
        eps = jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)
        return jnp.mean((prior.denoise(x0 + sigma * eps, sigma) - x0) ** 2)

    return jnp.mean(chunked_vmap(one, chunk_size)((jnp.arange(len(images)), images)))


_denoising_error = jax.jit(_error, static_argnums=4)


def classification_accuracy(
    net: Any, images: jax.Array, labels: jax.Array, *, chunk_size: int = 200
) -> jax.Array:
    """Return the share of images (N, *shape) whose largest logit is the label, ()."""
    _require_images(images)
    return _classification_accuracy(net, images, labels, chunk_size)


def _accuracy(
    net: Any, images: jax.Array, labels: jax.Array, chunk_size: int
) -> jax.Array:
    logits = chunked_vmap(net, chunk_size)(images)
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels, dtype=images.dtype)


_classification_accuracy = jax.jit(_accuracy, static_argnums=3)
