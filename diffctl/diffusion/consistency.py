"""Generation with consistency models, in one step or several.

With the consistency function f(x, sigma) and levels sigma_0 > ... > sigma_{n-1},

1. x0 <- f(sigma_0 z_0, sigma_0)
2. x <- x0 + sqrt(sigma_j^2 - sigma_min^2) z_j,   x0 <- f(x, sigma_j),   j = 1 .. n-1

Source: "Consistency Models" (Song et al., ICML 2023), algorithm 1.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffctl.core import ConsistencyPrior
from diffctl.diffusion.grids import NoiseGrid, karras_sigmas
from diffctl.numerics.safe import root_of_difference


def renoise(
    prior: ConsistencyPrior, x0: jax.Array, sigma: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return a state at `sigma` >= sigma_min from one at sigma_min, as in (2)."""
    return x0 + root_of_difference(sigma, prior.sigma_min) * noise


def generate(prior: ConsistencyPrior, sigma: jax.Array, noise: jax.Array) -> jax.Array:
    """Return the signal, (*shape), that consistency sampling makes of the noises.

    Args:
        prior: the consistency function; n calls.
        sigma: levels, noisiest first, (n,), n >= 1.
        noise: standard normal, (n, *shape); the first is the start, the others are
            added between the calls. The result is a differentiable function of them.
    """
    x0 = prior.jump(sigma[0] * noise[0], sigma[0])

    def body(x0: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        level, z = at
        return prior.jump(renoise(prior, x0, level, z), level), None

    x0, _ = jax.lax.scan(body, x0, (sigma[1:], noise[1:]))
    return x0


def sample_consistency(
    key: jax.Array, prior: ConsistencyPrior, sigma: jax.Array
) -> jax.Array:
    """Draw one example in as many network calls as there are levels; see `generate`."""
    sigma = jnp.asarray(sigma)
    noise = jax.random.normal(key, (sigma.shape[0], *prior.shape), sigma.dtype)
    return generate(prior, sigma, noise)


def karras_levels(indices: Sequence[int], num_levels: int = 40) -> NoiseGrid:
    """Return the levels with these indices of the grid that a model was trained on.

    Published sets for distilled models on 40 levels are (0, 22) for ImageNet-64,
    (0, 17) and (0, 18) for LSUN bedrooms; for models trained alone (0, 106) of 201
    levels, (0, 67) and (0, 62) of 151. Their lists end with the index of sigma_min, at
    which nothing is left to do.

    Raises:
        ValueError: indices do not increase strictly within 0..num_levels - 1.
    """
    increasing = all(a < b for a, b in itertools.pairwise(indices))
    inside = len(indices) > 0 and indices[0] >= 0 and indices[-1] < num_levels
    if not (increasing and inside):
        raise ValueError(
            f"indices {tuple(indices)} must increase strictly within "
            f"0..{num_levels - 1}; 0 is the noisiest level."
        )
    return NoiseGrid.from_sigmas(karras_sigmas(num_levels)[list(indices)])
