"""How a raw network F becomes a denoiser D in the coordinate x = x0 + sigma * eps.

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)

Source: "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et
al., 2022), table 1.
"""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass


class Coefficients(NamedTuple):
    """The four scalars of the preconditioning at one noise level."""

    skip: jax.Array
    out: jax.Array
    inside: jax.Array
    noise: jax.Array


class Preconditioning(abc.ABC):
    """A rule that gives the coefficients at every noise level."""

    @abc.abstractmethod
    def __call__(self, sigma: jax.Array) -> Coefficients:
        """Return the coefficients; `sigma` () > 0."""


@pytree_dataclass
class EDMPreconditioning(Preconditioning):
    """Unit-variance inputs and targets for data of root mean square `sigma_data`.

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2),
    c_in = 1 / sqrt(sigma^2 + s^2), c_noise = ln(sigma) / 4 with s = `sigma_data`.
    """

    sigma_data: float = 0.5

    def __call__(self, sigma: jax.Array) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            skip=self.sigma_data**2 / total,
            out=sigma * self.sigma_data * jax.lax.rsqrt(total),
            inside=jax.lax.rsqrt(total),
            noise=jnp.log(sigma) / 4,
        )
