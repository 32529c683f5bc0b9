"""A small trained latent diffusion model as a prior."""

from typing import Any, ClassVar

import jax

from diffctl.core import DiffusionPrior, SeverityPrior
from diffctl.priors.generative.model import Model
from diffctl.priors.network import apply_preconditioned
from diffctl.priors.preconditioning import EDMPreconditioning
from diffctl.pytree import pytree_dataclass, static

# The latents of a variational autoencoder have about unit variance.
UNIT_VARIANCE = EDMPreconditioning(sigma_data=1.0)


@pytree_dataclass
class DenoisedVector(DiffusionPrior):
    """The denoiser of the latents, see `LatentNetworkPrior`."""

    net: Any
    shape: tuple[int, ...] = static()

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return apply_preconditioned(self.net, UNIT_VARIANCE, x, sigma)


@pytree_dataclass
class LatentNetworkPrior(Model, SeverityPrior):
    """Images decoded from diffused latents: `SmallLatentDiffusion`.

    A latent is the mean of the autoencoder's law. The severity encoder knows the kind
    of measurement that it was trained for.
    """

    kind: ClassVar[str] = "latent diffusion"

    @property
    def latent(self) -> DiffusionPrior:  # type: ignore[override]
        return DenoisedVector(net=self.net.denoiser, shape=(self.argument("latent"),))

    def encode(self, x: jax.Array) -> jax.Array:
        return self.net.autoencoder.encode(x)[0]

    def decode(self, z: jax.Array) -> jax.Array:
        return self.net.autoencoder.decode(z)

    def through(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(x))

    def estimate_latent(self, y: Any) -> tuple[jax.Array, jax.Array]:
        return self.net.severity(y)
