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

    Infinite where no sequence moves but they differ, NaN where all draws are equal.

    Args:
        chains: draws of independent chains, (num_chains, num_draws, *shape), without
            their warm-up. The first draw of an odd number is left out.

    Raises:
        ValueError: fewer than 4 draws, or no axes for chains and draws.

    Source: Gelman et al., Bayesian Data Analysis, third edition, section 11.4.
    """
    halves = _halves(chains)
    within = _within(halves)
    return jnp.sqrt(_variance(halves, within) / within)


def bulk_ess(chains: jax.Array) -> jax.Array:
    """Return ESS of (7), of the ranks' normal scores, for every entry, (*shape).

    Ranks make it a statement on the bulk of any law, with or without variance. Below
    100 for each chain, R-hat and averages over the draws are not to be trusted. NaN
    where all draws are equal.

    Args:
        chains: as of `split_r_hat`.

    Raises:
        ValueError: fewer than 4 draws, or no axes for chains and draws.

    Deviations from the source: the sum of (6) is not lengthened by half a term.

    Source: Vehtari et al., Rank-normalization, folding, and localization: an improved
    R-hat for assessing convergence of MCMC, Bayesian Analysis 2021; (6) is Geyer,
    Practical Markov chain Monte Carlo, Statistical Science 1992.
    """
    scores = _normal_scores(_halves(chains))
    num_sequences, length = scores.shape[:2]
    covariances = jnp.mean(_autocovariances(scores), axis=0)
    within = _within(scores)
    correlations = 1 - (within - covariances) / _variance(scores, within)
    correlations = correlations.at[0].set(1)
    pairs = correlations[: length // 2 * 2].reshape(-1, 2, *scores.shape[2:]).sum(1)
    kept = jnp.cumprod(pairs > 0, axis=0) * lax.cummin(pairs)
    total = num_sequences * length
    spacing = 2 * jnp.sum(kept, axis=0) - 1
    return total / jnp.maximum(spacing, 1 / math.log10(total))


def _halves(chains: jax.Array) -> jax.Array:
    """Return the sequences, (M, N, *shape)."""
    if chains.ndim < 2 or chains.shape[1] < 4:
        raise ValueError(
            f"chains has shape {chains.shape}; expected (num_chains, num_draws, ...) "
            "with at least 4 draws. Record more draws of each chain."
        )
    length = chains.shape[1] // 2
    kept = chains[:, chains.shape[1] % 2 :]
    return kept.reshape(-1, length, *chains.shape[2:])


def _within(halves: jax.Array) -> jax.Array:
    """Return W of (1), (*shape)."""
    return jnp.mean(jnp.var(halves, axis=1, ddof=1), axis=0)


def _variance(halves: jax.Array, within: jax.Array) -> jax.Array:
    """Return V of (3), (*shape)."""
    length = halves.shape[1]
    between = jnp.var(jnp.mean(halves, axis=1), axis=0, ddof=1)
    return (length - 1) / length * within + between


def _autocovariances(halves: jax.Array) -> jax.Array:
    """Return the autocovariances of each sequence by lag, (M, N, *shape)."""
    length = halves.shape[1]
    centred = halves - jnp.mean(halves, axis=1, keepdims=True)
    spectrum = jnp.fft.rfft(centred, n=2 * length, axis=1)
    products = jnp.fft.irfft(jnp.abs(spectrum) ** 2, n=2 * length, axis=1)
    return products[:, :length] / (length - 1)


def _normal_scores(halves: jax.Array) -> jax.Array:
    """Return quantiles of N(0, 1) at the ranks among all draws, like the argument."""
    draws = halves.reshape(-1, *halves.shape[2:])
    ranks = rankdata(draws, axis=0)
    return ndtri((ranks - 3 / 8) / (len(draws) + 1 / 4)).reshape(halves.shape)
