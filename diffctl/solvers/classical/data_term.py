"""The data term f(x) = |A x - y|^2 / (2 s_y^2) of linear operators and white noise.

1. fit         argmin_x f(x) + penalty / 2 |K x - target|^2, which solves
               (A^T A + s_y^2 penalty K^T K) x = A^T y + s_y^2 penalty K^T target;
               for K = I, x = target + A^T (A A^T + s_y^2 penalty)^-1 (y - A target)
2. gradient    A^T (A x - y) / s_y^2
3. curvature   |A|^2 / s_y^2, the Lipschitz constant of (2)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior
from diffctl.numerics.krylov import conjugate_gradient
from diffctl.numerics.power import squared_operator_norm
from diffctl.operators.base import LinearOperator, Problem, SpectralOperator
from diffctl.solvers.data_steps import towards_noisy_data
from diffctl.solvers.requirements import linear, noise_std


class LinearMap(NamedTuple):
    """K and its transpose."""

    forward: Callable[[jax.Array], jax.Array]
    adjoint: Callable[[jax.Array], jax.Array]


IDENTITY = LinearMap(lambda x: x, lambda z: z)


def analysis_of(prior: ProximalPrior) -> LinearMap:
    """Return the K of a regulariser F(K x)."""
    if prior.splits:
        return LinearMap(prior.analysis, prior.analysis_adjoint)
    return IDENTITY


def grey(problem: Problem) -> jax.Array:
    """Return the signal of zeros, mid-grey, (*shape)."""
    return jnp.zeros_like(linear(problem).adjoint(problem.y))


def fit(
    problem: Problem,
    split: LinearMap,
    penalty: jax.Array,
    target: jax.Array,
    guess: jax.Array,
    num_inner: int,
) -> jax.Array:
    """Return (1), (*shape).

    By the singular system if K = I and A has one, or else by `num_inner` conjugate
    gradients from `guess`.
    """
    operator = linear(problem)
    damping = jnp.asarray(penalty * noise_std(problem) ** 2, guess.dtype)
    if split is IDENTITY and isinstance(operator, SpectralOperator):
        return target + towards_noisy_data(problem, target, damping)

    def matvec(x: jax.Array) -> jax.Array:
        return operator.normal(x) + damping * split.adjoint(split.forward(x))

    rhs = operator.adjoint(problem.y) + damping * split.adjoint(target)
    return conjugate_gradient(matvec, rhs, x0=guess, num_steps=num_inner)


def gradient(problem: Problem, x: jax.Array) -> jax.Array:
    """Return (2), (*shape)."""
    variance = jnp.asarray(noise_std(problem) ** 2, x.dtype)
    return -linear(problem).adjoint(problem.residual(x)) / variance


def curvature(key: jax.Array, problem: Problem, like: jax.Array) -> jax.Array:
    """Return (3), (), for signals like `like`."""
    variance = jnp.asarray(noise_std(problem) ** 2, like.dtype)
    return squared_norm_of(key, linear(problem), like) / variance


def squared_norm_of(
    key: jax.Array, operator: LinearOperator, like: jax.Array
) -> jax.Array:
    """Return |A|^2, (), from the singular values or else by `squared_operator_norm`.

    For A = 0 it is 1, as there.
    """
    if not isinstance(operator, SpectralOperator):
        return squared_operator_norm(key, operator.normal, like)
    found = jnp.max(operator.singular_values.astype(like.dtype)) ** 2
    return jnp.where(found > 0, found, 1)
