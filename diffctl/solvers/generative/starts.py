"""Where iterations on a signal start: `start(key, problem, prior) -> x`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.dtypes import default_float
from diffctl.operators.base import Problem
from diffctl.solvers.requirements import linear

Start = Callable[[jax.Array, Problem, Any], jax.Array]


def float_dtype(problem: Problem, prior: Any) -> Any:
    """Return the real dtype that the arrays of a prior and a problem ask for."""
    leaves = jax.tree.leaves((prior, problem))
    # The leaves themselves, not their dtypes: Python numbers adapt to the arrays.
    real = [x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.result_type(*real) if real else default_float()


def normal_start(key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
    """Return a standard normal signal."""
    return jax.random.normal(key, prior.shape, float_dtype(problem, prior))


def zero_start(key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
    """Return the middle of the range."""
    return jnp.zeros(prior.shape, float_dtype(problem, prior))


def pinv_start(key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
    """Return A^+ y; for linear operators."""
    return linear(problem).pinv(problem.y)
