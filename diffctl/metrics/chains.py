"""Whether Markov chains agree on what they sample, and how much they know of it.

Each chain is cut into halves, which makes M sequences of N draws, so that a chain that
drifts disagrees with itself. For every entry of the signal, with variances unbiased,

1. W      mean over the sequences of the variance within them
2. B / N  variance over the sequences of their means
3. V      (N - 1) / N W + B / N, the variance of the law if the chains have mixed
4. R-hat  sqrt(V / W)
5. rho_t  1 - (W - C_t) / V, C_t the mean autocovariance at lag t, with N - 1 in place
          of the number of pairs
6. P_k    rho_2k + rho_(2k+1), cut before the first that is not positive and made to
          fall, as it does for every reversible chain
7. ESS    M N / max(2 sum_k P_k - 1, 1 / log10(M N))

R-hat tends to 1 as chains mix; for independent draws R-hat^2 - 1 scatters around 0 by
sqrt(2 / (M - 1)) / N. ESS is the number of independent draws whose mean is as good.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtri
from jax.scipy.stats import rankdata


def split_r_hat(chains: jax.Array) -> jax.Array:
    """Return R-hat of (4) for every entry, (*shape); above 1.01 chains are too short.

    Infinite where no sequence moves but they differ, NaN where all draws are equal or
    one is not finite.

    Args:
        chains: draws of independent chains, (num_chains, num_draws, *shape), without
            their warm-up. The first draw of an odd number is left out.

    Raises:
        ValueError: fewer than 4 draws, or no axes for chains and draws.

    Source: Gelman et al., Bayesian Data Analysis, third edition, section 11.4.
    """
    means, centred = _centred(_halves(chains))
    within = _within(centred)
    return jnp.sqrt(_variance(means, centred) / within)


def bulk_ess(chains: jax.Array) -> jax.Array:
    """Return ESS of (7), of the ranks' normal scores, for every entry, (*shape).

    Ranks make it a statement on the bulk of any law, with or without variance. Below
    100 for each chain, R-hat and averages over the draws are not to be trusted. NaN
    where all draws are equal or one is not finite. Sequences that do not move but
    differ count for about half a draw each.

    Args:
        chains: as of `split_r_hat`.

    Raises:
        ValueError: fewer than 4 draws, or no axes for chains and draws.

    Deviations from the source: the sum of (6) is not lengthened by half a term.

    Source: Vehtari et al., Rank-normalization, folding, and localization: an improved
    R-hat for assessing convergence of MCMC, Bayesian Analysis 2021; (6) is Geyer,
    Practical Markov chain Monte Carlo, Statistical Science 1992.
    """
    halves = _halves(chains)
    means, centred = _centred(_normal_scores(halves))
    num_sequences, length = halves.shape[:2]
    covariances = jnp.mean(_autocovariances(centred), axis=0)
    gaps = _within(centred)[None] - covariances
    correlations = 1 - gaps / _variance(means, centred)[None]
    correlations = correlations.at[0].set(1)
    pairs = correlations[: length // 2 * 2].reshape(-1, 2, *halves.shape[2:]).sum(1)
    kept = jnp.cumprod(pairs > 0, axis=0) * lax.cummin(pairs)
    total = num_sequences * length
    spacing = 2 * jnp.sum(kept, axis=0) - 1
    ess = total / jnp.maximum(spacing, 1 / math.log10(total))
    # Ranks know neither that all draws are equal nor that one is infinite.
    low, high = (bound(halves, axis=(0, 1)) for bound in (jnp.min, jnp.max))
    told_apart = jnp.isfinite(low) & jnp.isfinite(high) & (low < high)
    return jnp.where(told_apart, ess, jnp.nan)


def _halves(chains: jax.Array) -> jax.Array:
    """Return the sequences, (M, N, *shape)."""
    if chains.ndim < 2 or chains.shape[1] < 4:
        raise ValueError(
            f"chains has shape {chains.shape}; expected (num_chains, num_draws, ...) "
            "with at least 4 draws. Record more draws of each chain."
        )
    length = chains.shape[1] // 2
    kept = chains[:, chains.shape[1] % 2 :].astype(jnp.result_type(chains, 0.0))
    return kept.reshape(-1, length, *chains.shape[2:])


def _centred(halves: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sequences' means, (M, *shape), and what is left of them, like them.

    Both of draws from which the first one is subtracted, and in units of the farthest:
    a sequence that stands still has no rounding for a variance.
    """
    offsets = halves - halves[:1, :1]
    unit = jnp.max(jnp.abs(offsets), axis=(0, 1))
    offsets = offsets / jnp.where(unit == 0, 1, unit)[None, None]
    moves = offsets - offsets[:, :1]
    shift = jnp.mean(moves, axis=1)
    return offsets[:, 0] + shift, moves - shift[:, None]


def _within(centred: jax.Array) -> jax.Array:
    """Return W of (1), (*shape)."""
    return jnp.sum(jnp.mean(centred**2, axis=0), axis=0) / (centred.shape[1] - 1)


def _variance(means: jax.Array, centred: jax.Array) -> jax.Array:
    """Return V of (3), (*shape)."""
    length = centred.shape[1]
    between = jnp.var(means, axis=0, ddof=1)
    return (length - 1) / length * _within(centred) + between


def _autocovariances(centred: jax.Array) -> jax.Array:
    """Return the autocovariances of each sequence by lag, (M, N, *shape)."""
    length = centred.shape[1]
    spectrum = jnp.fft.rfft(centred, n=2 * length, axis=1)
    products = jnp.fft.irfft(jnp.abs(spectrum) ** 2, n=2 * length, axis=1)
    return products[:, :length] / (length - 1)


def _normal_scores(halves: jax.Array) -> jax.Array:
    """Return quantiles of N(0, 1) at the ranks among all draws, like the argument."""
    draws = halves.reshape(-1, *halves.shape[2:])
    ranks = rankdata(draws, axis=0)
    return ndtri((ranks - 3 / 8) / (len(draws) + 1 / 4)).reshape(halves.shape)
