"""The loss of a latent diffusion model, all of whose networks are trained at once.

With the autoencoder (E, D), z0 the mean of E(x0), and y ~ p(y | x0),

    autoencoder's loss + denoising loss of z0 + severity loss of (x0, y)

in the last two of which the autoencoder is held fixed. Published models train the
networks one after the other; together they are one run of one optimiser, whose
denoiser follows latents that settle as the steps get smaller.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.priors.generative.latent_diffusion import UNIT_VARIANCE, DenoisedVector
from diffctl.priors.latent import KLAutoencoder, SeverityEncoderPrior, severity_loss
from diffctl.pytree import pytree_dataclass
from diffctl.training.amortised import Simulation
from diffctl.training.generative import AutoencoderLoss
from diffctl.training.objectives import DenoisingLoss


@pytree_dataclass
class LatentDiffusionLoss:
    """The sum above, for a `SmallLatentDiffusion`.

    Args:
        pairs: the simulation; its features are not used.
        denoising: noise levels and weights, in the unit of the latents.
    """

    pairs: Simulation
    denoising: DenoisingLoss = DenoisingLoss(preconditioning=UNIT_VARIANCE)

    def __call__(
        self, net: Any, key: jax.Array, images: jax.Array, labels: Any
    ) -> jax.Array:
        keys = jax.random.split(key, 3)
        fixed = jax.lax.stop_gradient(net.autoencoder)
        latents = jax.vmap(fixed.encode)(images)[0]
        generative = AutoencoderLoss()(net.autoencoder, keys[0], images, labels)
        denoising = self.denoising(net.denoiser, keys[1], latents, labels)
        prior = SeverityEncoderPrior(
            autoencoder=KLAutoencoder(net=fixed),
            latent=DenoisedVector(net=net.denoiser, shape=latents.shape[1:]),
            shape=images.shape[1:],
            severity_encoder=net.severity,
        )

        def severity(key: jax.Array, x0: jax.Array) -> jax.Array:
            return severity_loss(prior, x0, self.pairs.problem(key, x0).y)

        example_keys = jax.random.split(keys[2], len(images))
        return (
            generative + denoising + jnp.mean(jax.vmap(severity)(example_keys, images))
        )
