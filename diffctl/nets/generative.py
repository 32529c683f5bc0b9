"""Small generators for small grey images: decoder, autoencoder and coupling flow."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural, Range
from diffctl.nets.classifier import SmallClassifier
from diffctl.nets.layers import Conv, Linear, upsample_nearest


class SmallDecoder(nnx.Module):
    """A linear layer and two convolutions with up-sampling: (Z,) -> (H, W, C).

    Args (of the constructor):
        latent: Z.
        size: height and width of the image, divisible by 4.
        channels: image channels.
        width: channels before the last convolution; twice that before the first.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        latent: Count,
        size: Count = 28,
        channels: Count = 1,
        width: Count = 16,
        rngs: nnx.Rngs,
    ):
        self.coarse = (size // 4, size // 4, 2 * width)
        self.dense1 = Linear(latent, 4 * width, rngs=rngs)
        self.dense2 = Linear(4 * width, math.prod(self.coarse), rngs=rngs)
        self.conv1 = Conv(2 * width, width, rngs=rngs)
        self.conv2 = Conv(width, channels, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Map a latent (Z,) to an image in (-1, 1)."""
        h = jax.nn.silu(self.dense2(jax.nn.silu(self.dense1(z))))
        h = upsample_nearest(h.reshape(self.coarse))
        h = upsample_nearest(jax.nn.silu(self.conv1(h)))
        return jnp.tanh(self.conv2(h))


class SmallAutoencoder(nnx.Module):
    """A `SmallDecoder`, an encoder of its size, and the spread of the decoder.

    Args (of the constructor): as for `SmallDecoder`.
    """

    def __init__(
        self,
        *,
        latent: Count,
        size: Count = 28,
        channels: Count = 1,
        width: Count = 16,
        rngs: nnx.Rngs,
    ):
        shared: dict[str, Any] = {"size": size, "channels": channels, "width": width}
        self.encoder = SmallClassifier(classes=2 * latent, **shared, rngs=rngs)
        self.decoder = SmallDecoder(latent=latent, **shared, rngs=rngs)
        self.log_std = nnx.Param(jnp.zeros(()))

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map an image to mean and log variance of its latent, (Z,) each."""
        mean, log_variance = jnp.split(self.encoder(x), 2)
        return mean, log_variance

    def decode(self, z: jax.Array) -> jax.Array:
        """Map a latent (Z,) to an image in (-1, 1)."""
        return self.decoder(z)

    def decoder_std(self) -> jax.Array:
        """Return the standard deviation of images around their decoded latents, ()."""
        return jnp.exp(self.log_std[...])


class Coupling(nnx.Module):
    """Shift and scale half of a vector by a function of the other half.

    The scale lies in (1/e, e), so that no step of the training can make it explode.
    """

    def __init__(self, kept: int, moved: int, context: int, width: int, rngs: nnx.Rngs):
        self.dense1 = Linear(kept + context, width, rngs=rngs)
        self.dense2 = Linear(width, width, rngs=rngs)
        self.dense3 = Linear(width, 2 * moved, gain=0.01, rngs=rngs)

    def __call__(
        self, kept: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return log scale and shift of the other half."""
        h = jax.nn.silu(self.dense1(jnp.concatenate([kept, context])))
        h = self.dense3(jax.nn.silu(self.dense2(h)))
        log_scale, shift = jnp.split(h, 2)
        return jnp.tanh(log_scale), shift


class CouplingFlow(nnx.Module):
    """A bijection of vectors: affine couplings, then a scale and a shift per entry.

    Couplings move the even and the odd entries in turn; for grey images with rows of
    even length these are alternating columns.

    Args (of the constructor):
        size: length of the vector, at least 2.
        couplings: how many.
        width: features of their hidden layers.
        context: length of the vector that the couplings are given besides; 0 for none.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        size: Annotated[int, Range(2)],
        couplings: Natural = 6,
        width: Count = 128,
        context: Natural = 0,
        rngs: nnx.Rngs,
    ):
        halves = ((size + 1) // 2, size // 2)
        self.couplings = nnx.List(
            Coupling(halves[i % 2], halves[1 - i % 2], context, width, rngs)
            for i in range(couplings)
        )
        self.log_scale = nnx.Param(jnp.zeros(size))
        self.shift = nnx.Param(jnp.zeros(size))

    def forward(
        self, z: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return x, (size,), and log |det dx/dz|, ()."""
        given = jnp.zeros(0, z.dtype) if context is None else context
        halves = [z[0::2], z[1::2]]
        log_det = jnp.zeros((), z.dtype)
        for i, coupling in enumerate(self.couplings):
            log_scale, shift = coupling(halves[i % 2], given)
            halves[1 - i % 2] = halves[1 - i % 2] * jnp.exp(log_scale) + shift
            log_det += jnp.sum(log_scale)
        scale = self.log_scale[...].astype(z.dtype)
        x = _interleave(halves) * jnp.exp(scale) + self.shift[...].astype(z.dtype)
        return x, log_det + jnp.sum(scale)

    def inverse(
        self, x: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return z, (size,), and log |det dz/dx|, ()."""
        given = jnp.zeros(0, x.dtype) if context is None else context
        scale = self.log_scale[...].astype(x.dtype)
        h = (x - self.shift[...].astype(x.dtype)) * jnp.exp(-scale)
        halves = [h[0::2], h[1::2]]
        log_det = -jnp.sum(scale)
        for i, coupling in reversed(list(enumerate(self.couplings))):
            log_scale, shift = coupling(halves[i % 2], given)
            halves[1 - i % 2] = (halves[1 - i % 2] - shift) * jnp.exp(-log_scale)
            log_det -= jnp.sum(log_scale)
        return _interleave(halves), log_det


def _interleave(halves: Sequence[jax.Array]) -> jax.Array:
    """Return the vector whose even and odd entries these are."""
    even, odd = halves
    x = jnp.zeros(even.size + odd.size, even.dtype)
    return x.at[0::2].set(even).at[1::2].set(odd)
