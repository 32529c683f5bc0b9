"""The KL autoencoder that is the first stage of latent diffusion.

Networks of CompVis/latent-diffusion and of huggingface/diffusers' AutoencoderKL.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.blocks import BlockStyle
from diffctl.nets.ladder import (
    LevelSpec,
    Maker,
    Middle,
    Resampling,
    down_levels,
    up_levels,
)
from diffctl.nets.layers import Conv, GroupNorm

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class Encoder(nnx.Module):
    """Image (H, W, C) -> features (h, w, D)."""

    def __init__(
        self,
        make: Maker,
        channels: tuple[int, int, int],
        specs: Sequence[LevelSpec],
        heads: int,
    ):
        image, stem, out = channels
        bottom = specs[-1].width
        self.stem = Conv(image, stem, rngs=make.rngs)
        self.down = down_levels(make, stem, specs)
        self.middle = Middle(make, bottom, heads)
        self.norm = make.style.norm(bottom)
        self.head = Conv(bottom, out, rngs=make.rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.stem(x)
        for level in self.down:
            h, _ = level.down(h, None)
        return _finish(self.norm, self.head, self.middle(h))


class Decoder(nnx.Module):
    """Features (h, w, D) -> image (H, W, C)."""

    def __init__(
        self,
        make: Maker,
        channels: tuple[int, int],
        specs: Sequence[LevelSpec],
        heads: int,
    ):
        width, bottom = specs[-1].width, specs[0].width
        self.stem = Conv(channels[0], bottom, rngs=make.rngs)
        self.middle = Middle(make, bottom, heads)
        self.up = up_levels(make, bottom, specs)
        self.norm = make.style.norm(width)
        self.head = Conv(width, channels[1], rngs=make.rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        h = self.middle(self.stem(h))
        for level in self.up:
            h = level.up(h)
        return _finish(self.norm, self.head, h)


class AutoencoderKL(nnx.Module):
    """Images to Gaussians over latents and back.

    Args (of the constructor):
        channels: of the image, of the encoder's stem, of the features between the
            coders, and of the latent.
        levels: one dictionary of the fields of `LevelSpec` per resolution, finest
            first, as in the encoder; the decoder has one block more per level.
        middle_heads: attention heads at the bottom of both coders; 0 for none.
        quantised: whether 1x1 convolutions stand between coders and latent.
        groups: of the norms.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: tuple[Count, Count, Count, Count],
        levels: Sequence[Annotated[Mapping[str, Any], LevelSpec]],
        middle_heads: Natural = 1,
        quantised: bool = True,
        groups: Count = 32,
        rngs: nnx.Rngs,
    ):
        image, stem, features, latent = channels
        style = BlockStyle(groups=groups, epsilon=1e-6, modulation=None)
        make = Maker(style, 0, rngs)
        down = [LevelSpec(**spec) for spec in levels]
        up = [_decoding(spec, last=spec is down[0]) for spec in reversed(down)]
        self.encoder = Encoder(make, (image, stem, 2 * features), down, middle_heads)
        self.decoder = Decoder(make, (features, image), up, middle_heads)
        self.to_latent = _pointwise(quantised, 2 * features, 2 * latent, rngs)
        self.from_latent = _pointwise(quantised, latent, features, rngs)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        taken_by = self.decoder.stem if self.from_latent is None else self.from_latent
        return int(taken_by.kernel.shape[2])

    def moments(self, x: jax.Array) -> jax.Array:
        """Return mean and unclipped log variance of the latent, (h, w, 2 Z)."""
        h = self.encoder(x)
        return h if self.to_latent is None else self.to_latent(h)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map an image (H, W, C) to mean and log variance of its latent (h, w, Z)."""
        mean, log_variance = jnp.split(self.moments(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, z: jax.Array) -> jax.Array:
        """Map a latent (h, w, Z) to an image (H, W, C)."""
        return self.decoder(z if self.from_latent is None else self.from_latent(z))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the reconstruction of an image from the mean of its latent."""
        return self.decode(self.encode(x)[0])


def _decoding(spec: LevelSpec, *, last: bool) -> LevelSpec:
    """Return the level of the decoder at the resolution of an encoder's level."""
    resample: Resampling | None = None if last else "convolution"
    return dataclasses.replace(spec, blocks=spec.blocks + 1, resample=resample)


def _pointwise(
    present: bool, channels_in: int, channels_out: int, rngs: nnx.Rngs
) -> Conv | None:
    return Conv(channels_in, channels_out, 1, rngs=rngs) if present else None


def _finish(norm: GroupNorm, head: Conv, h: jax.Array) -> jax.Array:
    return head(jax.nn.silu(norm(h)))
