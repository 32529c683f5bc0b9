"""What RED-diff descends: data losses, weights of the regulariser, first guesses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffctl.numerics.safe import squared_norm
from diffctl.operators.base import Problem
from diffctl.solvers.data_steps import RELEASED_CUTOFF, pinv_without
from diffctl.solvers.requirements import linear

DataLoss = Callable[[Problem, jax.Array], jax.Array]
Weight = Callable[[jax.Array], jax.Array]
FirstGuess = Callable[[Problem, jax.Array], jax.Array]


def squared_residual(problem: Problem, x0: jax.Array) -> jax.Array:
    """Return |y - A(x0)|^2 / 2."""
    squares = jax.tree.map(squared_norm, problem.residual(x0))
    return jax.tree.reduce(jnp.add, squares) / 2


def averaged_residual(problem: Problem, x0: jax.Array) -> jax.Array:
    """Return |y - A(x0)|^2 / 2 with d / m in front, d and m the sizes of x0 and of y.

    The loss of NVlabs/RED-diff: both of its terms are averages over their own sizes, so
    that lambda means something else for every kind of measurement.
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.y))
    return squared_residual(problem, x0) * (x0.size / max(size, 1))


def negative_log_likelihood(problem: Problem, x0: jax.Array) -> jax.Array:
    """Return -log p(y | x0), for any noise; lambda = 1 is then in its natural unit."""
    return problem.misfit(x0)


def linear_weight(sigma: jax.Array) -> jax.Array:
    """Return sigma, the root of the inverse signal-to-noise ratio: the default."""
    return sigma


def square_root_weight(sigma: jax.Array) -> jax.Array:
    """Return sqrt(sigma)."""
    return jnp.sqrt(sigma)


def two_thirds_weight(sigma: jax.Array) -> jax.Array:
    """Return sigma^(2/3)."""
    return sigma ** (2 / 3)


def squared_weight(sigma: jax.Array) -> jax.Array:
    """Return sigma^2."""
    return sigma**2


def log_weight(sigma: jax.Array) -> jax.Array:
    """Return log(1 + sigma)."""
    return jnp.log1p(sigma)


def capped_weight(sigma: jax.Array) -> jax.Array:
    """Return min(sigma, 1)."""
    return jnp.minimum(sigma, 1)


def constant_weight(sigma: jax.Array) -> jax.Array:
    """Return 1."""
    return jnp.ones_like(sigma)


def zero_guess(problem: Problem, like: jax.Array) -> jax.Array:
    """Return 0."""
    return jnp.zeros_like(like)


def pinv_guess(problem: Problem, like: jax.Array) -> jax.Array:
    """Return A^+ y of a linear operator."""
    return linear(problem).pinv(problem.y).astype(like.dtype)


def cutoff_pinv_guess(problem: Problem, like: jax.Array) -> jax.Array:
    """Return A^+ y without small singular values, as the released operators of blur.

    A^+ would return the noise of y amplified without bound.
    """
    return pinv_without(problem, problem.y, RELEASED_CUTOFF).astype(like.dtype)
