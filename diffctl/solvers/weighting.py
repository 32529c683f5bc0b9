"""Units of DOC's control weights: what a control costs at each level."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffctl.diffusion import NoiseLevel

Weighting = Callable[[NoiseLevel, NoiseLevel], jax.Array]


def inverse_guidance(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Return 1 / gamma, gamma the deterministic step's own weight of a score.

    In the coordinates z it is
    gamma = sigma (sigma - sigma') / sqrt((1 + sigma^2) (1 + sigma'^2)). A control that
    costs 1 / gamma enters with the strength of a likelihood score (the corrected lemma
    4.2), so late controls, which could leave the data manifold, are expensive.
    """
    gamma = now.sigma * (now.sigma - next.sigma)
    return jnp.sqrt((1 + now.sigma**2) * (1 + next.sigma**2)) / gamma


def uniform_weight(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Return 1 at every level."""
    return jnp.ones_like(now.sigma)
