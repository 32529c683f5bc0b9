"""Exact identities between the quantities that a diffusion network may predict.

Everything is in the canonical coordinate x = x0 + sigma * eps, with x0 in [-1, 1]:

1. eps_hat = (x - x0_hat) / sigma
2. score   = (x0_hat - x) / sigma^2
3. v_pred  = (eps_hat - sigma * x0_hat) / sqrt(1 + sigma^2)
           = sqrt(alphas_cumprod) eps_hat - sqrt(1 - alphas_cumprod) x0_hat
4. x_vp    = x / sqrt(1 + sigma^2),  alphas_cumprod = 1 / (1 + sigma^2)
5. Cov[x0 | x] v = sigma^2 * (d denoise / d x) v      (Tweedie, second order)

Arrays have any shape; `sigma` is a scalar, positive where it divides.
"""

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior


def eps_from_x0(x0_hat: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return eps_hat by (1)."""
    return (x - x0_hat) / sigma


def x0_from_eps(eps_hat: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return x0_hat, the inverse of (1)."""
    return x - sigma * eps_hat


def score_from_x0(x0_hat: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the score of p_sigma at x by (2)."""
    return (x0_hat - x) / sigma**2


def x0_from_score(score: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return x0_hat, the inverse of (2): Tweedie's formula."""
    return x + sigma**2 * score


def v_from_x0(x0_hat: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the v-prediction of "Progressive distillation" by (3)."""
    return (eps_from_x0(x0_hat, x, sigma) - sigma * x0_hat) / jnp.sqrt(1 + sigma**2)


def x0_from_v(v_pred: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return x0_hat, the inverse of (3)."""
    return x / (1 + sigma**2) - sigma / jnp.sqrt(1 + sigma**2) * v_pred


def vp_from_canonical(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the variance-preserving coordinate by (4)."""
    return x / jnp.sqrt(1 + sigma**2)


def canonical_from_vp(x_vp: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the canonical coordinate, the inverse of (4)."""
    return x_vp * jnp.sqrt(1 + sigma**2)


def alphas_cumprod_from_sigma(sigma: jax.Array) -> jax.Array:
    """Return the cumulative product of a VP chain whose noise level is `sigma`."""
    return 1 / (1 + sigma**2)


def sigma_from_alphas_cumprod(alphas_cumprod: jax.Array) -> jax.Array:
    """Return the noise level of a VP chain with this cumulative product, in (0, 1]."""
    return jnp.sqrt((1 - alphas_cumprod) / alphas_cumprod)


def posterior_cov_vp(
    prior: DiffusionPrior, x: jax.Array, sigma: jax.Array, vector: jax.Array
) -> jax.Array:
    """Return Cov[x0 | x] applied to `vector`, by (5), without forming the matrix.

    Exact for an exact denoiser, whose Jacobian is symmetric. Uses the JVP; a learned
    denoiser's VJP may differ.

    Args:
        prior: its denoiser is differentiated once.
        x: noisy signal, (*shape).
        sigma: its noise level, ().
        vector: (*shape).

    Returns:
        (*shape). Costs one forward and one JVP of the network.
    """
    _, product = jax.jvp(lambda z: prior.denoise(z, sigma), (x,), (vector,))
    return sigma**2 * product
