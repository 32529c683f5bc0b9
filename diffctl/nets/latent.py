"""A small latent diffusion model: autoencoder, denoiser and severity encoder."""

from typing import Any

import jax
from flax import nnx

from diffctl.host import Count
from diffctl.nets.classifier import SmallClassifier
from diffctl.nets.generative import SmallAutoencoder
from diffctl.nets.layers import FourierFeatures, Linear


class VectorDenoiser(nnx.Module):
    """Residual layers that are told the noise level: (Z,), () -> (Z,).

    Args (of the constructor):
        size: Z.
        width: features of the layers.
        depth: residual layers.
        rngs: source of the initial parameters.
    """

    def __init__(self, *, size: int, width: int = 192, depth: int = 3, rngs: nnx.Rngs):
        self.features = FourierFeatures(16, lowest=0.5, highest=24.0)
        self.embed = Linear(32, width, rngs=rngs)
        self.stem = Linear(size, width, rngs=rngs)
        self.hidden = nnx.List(Linear(width, width, rngs=rngs) for _ in range(depth))
        self.head = Linear(width, size, gain=0.0, rngs=rngs)

    def __call__(self, z: jax.Array, noise_label: jax.Array) -> jax.Array:
        """Map a latent (Z,) and a scalar noise label to (Z,)."""
        level = self.embed(self.features(noise_label).astype(z.dtype))
        h = self.stem(z)
        for layer in self.hidden:
            h = h + layer(jax.nn.silu(h + level))
        return self.head(jax.nn.silu(h))


class SeverityEncoder(nnx.Module):
    """A measured image -> a rough latent (Z,) and the variance of its error, ().

    Args (of the constructor): as for `SmallClassifier`, and
        latent: Z.
    """

    def __init__(
        self, *, latent: int, size: int, channels: int, width: int, rngs: nnx.Rngs
    ):
        self.shape = (size, size, channels)
        self.body = SmallClassifier(
            classes=latent + 1, size=size, channels=channels, width=width, rngs=rngs
        )

    def __call__(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map a measured image of any size (H, W, C) to latent and variance."""
        found = self.body(jax.image.resize(y, self.shape, "linear"))
        return found[:-1], jax.nn.softplus(found[-1])


class SmallLatentDiffusion(nnx.Module):
    """The three networks of Flash-Diffusion, for small images.

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
        self.autoencoder = SmallAutoencoder(latent=latent, **shared, rngs=rngs)
        self.denoiser = VectorDenoiser(size=latent, rngs=rngs)
        self.severity = SeverityEncoder(latent=latent, **shared, rngs=rngs)
