"""Whether Markov chains agree on what they sample.

Each chain is cut into halves, which makes M sequences of N draws, so that a chain that
drifts disagrees with itself. For every entry of the signal, with variances unbiased,

1. W      mean over the sequences of the variance within them
2. B / N  variance over the sequences of their means
3. R-hat  sqrt(((N - 1) / N W + B / N) / W)

R-hat tends to 1 as chains mix; for independent draws R-hat^2 - 1 scatters around 0 by
sqrt(2 / (M - 1)) / N.
"""

import jax
import jax.numpy as jnp


def split_r_hat(chains: jax.Array) -> jax.Array:
    """Return R-hat of (3) for every entry, (*shape); above 1.01 chains are too short.

    Infinite where no sequence moves but they differ, NaN where all draws are equal.

    Args:
        chains: draws of independent chains, (num_chains, num_draws, *shape), without
            their warm-up. The first draw of an odd number is left out.

    Raises:
        ValueError: fewer than 4 draws, or no axes for chains and draws.

    Source: Gelman et al., Bayesian Data Analysis, third edition, section 11.4.
    """
    if chains.ndim < 2 or chains.shape[1] < 4:
        raise ValueError(
            f"chains has shape {chains.shape}; expected (num_chains, num_draws, ...) "
            "with at least 4 draws. Record more draws of each chain."
        )
    length = chains.shape[1] // 2
    kept = chains[:, chains.shape[1] % 2 :]
    halves = kept.reshape(-1, length, *chains.shape[2:])
    within = jnp.mean(jnp.var(halves, axis=1, ddof=1), axis=0)
    between = jnp.var(jnp.mean(halves, axis=1), axis=0, ddof=1)
    return jnp.sqrt(((length - 1) / length * within + between) / within)
