"""Poisson counts k of a rate r in single precision: their likelihood and their draws.

1. half the deviance   D = r - k - k log(r / k) = e s - 2 k (s^3 / 3 + s^5 / 5 + ...),
                       e = r - k,  s = e / (r + k);   D = r for k = 0
2. nearly normal       k = r + sqrt(r) z + (z^2 - 1) / 6, rounded,  z ~ N(0, 1)

D is the negative log-likelihood but for a function of the counts alone. Where the rate
is right it is about 1/2, the other one about k log k: what two rates differ by would be
lost in its rounding. (2) has the mean, the variance and the skewness of the Poisson
law, up to 1.4e-5 of the variance from `MANY` counts on.

Source of the series: Loader, Fast and accurate computation of binomial probabilities,
2000.
"""

import jax
import jax.numpy as jnp

# The series below this |s|; above, the logarithm cancels less than a digit of D.
NEAR = 0.1
# 1/3, 1/5, ...: the remainder is below the rounding of float64 for |s| <= NEAR.
COEFFICIENTS = tuple(1 / (2 * j + 1) for j in range(9, 0, -1))
# Where (2) takes over. The rejection sampler of jax 0.10.2 adds up logarithms in
# float32: of 4e6 draws the variance is 0.8 % off at a rate of 3e5, 2.6 % at 1e6 and
# 21 % at 1e8, all draws are 2^31 - 1 above; up to 3e4 nothing shows.
MANY = 1e4


@jax.custom_jvp
def half_deviance(rate: jax.Array, counts: jax.Array, excess: jax.Array) -> jax.Array:
    """Return D of (1) for every entry.

    Args:
        rate: r > 0.
        counts: k >= 0, no integers if they carry rounding.
        excess: r - k, from where it is known without cancellation. Derivatives take it
            for that difference.
    """
    ratio, near = _closeness(rate, counts, excess)
    square = jnp.where(near, ratio, 0) ** 2
    series = jnp.polyval(jnp.asarray(COEFFICIENTS, square.dtype), square)
    close = excess * ratio - 2 * counts * ratio * square * series
    return jnp.where(near, close, excess + counts * _log_ratio(counts, rate))


@half_deviance.defjvp
def _half_deviance_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    rate, counts, excess = primals
    rate_dot, counts_dot, _ = tangents
    _, near = _closeness(rate, counts, excess)
    # Far from the counts, their rounding is harmless and their derivative is not.
    slope = jnp.where(near, excess / rate, 1 - counts / rate)
    change = slope * rate_dot + _log_ratio(counts, rate) * counts_dot
    return half_deviance(rate, counts, excess), change


def _closeness(
    rate: jax.Array, counts: jax.Array, excess: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return s, and where the series holds."""
    ratio = excess / (rate + counts)
    return ratio, jnp.abs(ratio) < NEAR


def _log_ratio(counts: jax.Array, rate: jax.Array) -> jax.Array:
    """Return log(k / r), of which k = 0 makes a finite number."""
    # k log(k / r) is nothing beside r where k is smaller than this.
    least = jnp.sqrt(jnp.finfo(rate.dtype).tiny)
    return jnp.log(jnp.maximum(counts / rate, least))


def poisson_counts(key: jax.Array, rate: jax.Array) -> jax.Array:
    """Draw counts for rates >= 0, as floats like `rate`: by (2) from `MANY` on."""
    few = jax.random.poisson(key, jnp.minimum(rate, MANY)).astype(rate.dtype)
    z = jax.random.normal(jax.random.fold_in(key, 1), rate.shape, rate.dtype)
    many = jnp.maximum(rate, MANY)
    drawn = jnp.round(many + jnp.sqrt(many) * z + (z**2 - 1) / 6)
    return jnp.where(rate < MANY, few, drawn)
