"""Embeddings of noise levels and class labels."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from diffctl.nets.layers import Linear, scaled_normal, wide_float


class Sinusoid(nnx.Module):
    """Cosines and sines of a time step: () -> (width,).

    The frequencies are 10000^(-i / (half - shift)), i = 0 .. half - 1, half = width/2.
    They are computed in double precision and rounded once.
    """

    def __init__(self, width: int, *, shift: float = 0, sines_first: bool = False):
        if width % 2 or width // 2 <= shift:
            raise ValueError(
                f"a sinusoid needs an even width above {2 * shift}; got {width}."
            )
        self.width = width
        self.shift = shift
        self.sines_first = sines_first

    def __call__(self, value: ArrayLike) -> jax.Array:
        value, half = wide_float(value), self.width // 2
        exponents = np.arange(half) / (half - self.shift)
        frequencies = jnp.asarray(np.exp(-math.log(10000) * exponents), value.dtype)
        return waves(value * frequencies, self.sines_first)


class FourierWaves(nnx.Module):
    """Cosines and sines at random frequencies kept with the network: () -> (width,).

    Training leaves the frequencies as they were drawn (standard deviation 16).
    """

    def __init__(self, width: int, *, sines_first: bool = False, rngs: nnx.Rngs):
        self.frequencies = nnx.Param(scaled_normal(rngs, (width // 2,), 16.0, 1))
        self.sines_first = sines_first

    def __call__(self, value: ArrayLike) -> jax.Array:
        value = wide_float(value)
        frequencies = jax.lax.stop_gradient(self.frequencies[...]).astype(value.dtype)
        return waves(value * (2 * math.pi * frequencies), self.sines_first)


def waves(angles: jax.Array, sines_first: bool) -> jax.Array:
    """Return the cosines and sines of the angles, (n,) -> (2n,), in that order."""
    halves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(halves[::-1] if sines_first else halves)


def as_weights(label: jax.Array, classes: int, dtype: jnp.dtype) -> jax.Array:
    """Turn a class number () into a one-hot vector (classes,); leave vectors alone."""
    label = jnp.asarray(label)
    return (jax.nn.one_hot(label, classes) if label.ndim == 0 else label).astype(dtype)


class Embedding(nnx.Module):
    """A vector for each class, without bias: (N,) weights of the classes -> (D,)."""

    def __init__(self, classes: int, features: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(scaled_normal(rngs, (classes, features), 1.0, fan_in=1))

    def __call__(self, weights: jax.Array) -> jax.Array:
        return weights @ self.table[...].astype(weights.dtype)


class TimeEmbedding(nnx.Module):
    """Sinusoid, two linear layers, and a vector per class if there are classes.

    Args (of the constructor):
        features: the sinusoid.
        width: of the embedding.
        classes: number of class labels; 0 for an unconditional network.
        rngs: source of the initial parameters.
    """

    def __init__(
        self, features: Sinusoid, width: int, *, classes: int = 0, rngs: nnx.Rngs
    ):
        self.features = features
        self.linear1 = Linear(features.width, width, rngs=rngs)
        self.linear2 = Linear(width, width, rngs=rngs)
        self.labels = Embedding(classes, width, rngs=rngs) if classes else None
        self.classes = classes

    def __call__(self, timestep: jax.Array, label: Any, dtype: Any) -> jax.Array:
        """Embed a time step () and a class; the result (width,) has `dtype`.

        Raises:
            ValueError: a label is given to an unconditional network, or none to a
                conditional one.
        """
        if (label is None) != (self.labels is None):
            raise ValueError(
                f"this network knows {self.classes} classes; label={label}. Pass "
                "`label` to a class-conditional network, and only to one."
            )
        embedding = self.of_time(timestep, dtype)
        if self.labels is not None:
            embedding += self.labels(as_weights(label, self.classes, dtype))
        return embedding

    def of_time(self, timestep: jax.Array, dtype: Any) -> jax.Array:
        """Embed a time step () alone; the angles are in float32 or better."""
        wide = jnp.promote_types(dtype, jnp.float32)
        sinusoid = self.features(jnp.asarray(timestep, wide)).astype(dtype)
        return self.linear2(jax.nn.silu(self.linear1(sinusoid)))
