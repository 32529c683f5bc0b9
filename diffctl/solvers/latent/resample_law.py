"""The law that ReSample noises a consistent latent with."""

import math
from collections.abc import Callable

import jax

from diffctl.diffusion import NoiseLevel
from diffctl.numerics.safe import safe_divide, safe_sqrt

ResampleVariance = Callable[[NoiseLevel, NoiseLevel], jax.Array]


def paper_variance(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Return (1 - a') / a * (1 - a / a'), with a = 1 / (1 + sigma^2)."""
    return next.sigma**2 / (1 + next.sigma**2) * (1 + now.sigma**2) * _beta(now, next)


def released_variance(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Return (1 - a') / (1 - a) * (1 - a / a'), the variance of an ancestral step."""
    return paper_variance(now, next) / now.sigma**2


def _beta(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    return 1 - (1 + next.sigma**2) / (1 + now.sigma**2)


def resample(
    consistent: jax.Array,
    kept: jax.Array,
    variances: tuple[jax.Array, jax.Array],
    noise: jax.Array,
) -> jax.Array:
    """Draw from the normalised product of N(consistent, v I) and N(kept, r I).

    `variances` is (v, r), both (); one of them may be 0, and r may be infinite.
    """
    v, r = variances
    on_kept = v / (v + r)
    mean = consistent + on_kept * (kept - consistent)
    # v r / (v + r), of which 1 - on_kept would lose a small r
    variance = v / (1 + safe_divide(v, r, otherwise=math.inf))
    return mean + safe_sqrt(variance) * noise
