"""Draws of a copy z of the signal x that is coupled to it, given the measurement.

z ~ p(y | z) exp(-|z - x|^2 / (2 rho^2)),  which for a linear A is
N(P^{-1} (A^T y / s_y^2 + x / rho^2), P^{-1}),  P = A^T A / s_y^2 + I / rho^2
"""

import abc
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.numerics.langevin import langevin_step, run_chain
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import (
    LinearOperator,
    Operator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.requirements import linear, noise_std, spectral
from diffctl.solvers.spectral import SpectralData


class LikelihoodStep(abc.ABC):
    """A draw of z given x."""

    needs: ClassVar[tuple[type, type]]  # operator class, noise class

    @abc.abstractmethod
    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        """Return z, (*shape)."""


@pytree_dataclass
class SpectralLikelihood(LikelihoodStep):
    """The exact draw in singular directions."""

    needs: ClassVar[tuple[type, type]] = (SpectralOperator, WhiteNoise)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        noise = rho * standard_normal(key, x)
        return (
            x
            + noise
            + spectral(problem).combined(
                _pulled_and_shrunk, problem.y, (x, noise), noise_std(problem), rho
            )
        )


def _pulled_and_shrunk(
    s: jax.Array, coordinates: tuple[jax.Array, ...], std: Any, rho: jax.Array
) -> jax.Array:
    """Return what the measurement changes in the coordinates of x + noise, (k,)."""
    coefficients, x, noise = coordinates
    data = SpectralData.at(s, coefficients, std)
    total = rho**2 + data.std**2
    gain = jnp.where(data.measured, rho**2 / total, 0)
    # The root of 1 - gain, which for precise data is mostly rounding.
    kept = jnp.where(data.measured, data.std / jnp.sqrt(total), 1)
    return gain * (data.y - x) + (kept - 1) * noise


@pytree_dataclass
class PerturbedLikelihood(LikelihoodStep):
    """The exact draw as the solution of a perturbed problem, by conjugate gradients.

    z = w + A^T (A A^T + s_y^2 / rho^2 I)^{-1} (y + s_y n - A w),  w = x + rho n'
    """

    needs: ClassVar[tuple[type, type]] = (LinearOperator, WhiteNoise)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        signal_key, data_key = jax.random.split(key)
        operator, std = linear(problem), noise_std(problem)
        start = x + rho * standard_normal(signal_key, x)
        perturbed = operator.restrict(problem.noise.sample(data_key, problem.y))
        residual = jax.tree.map(jnp.subtract, perturbed, operator(start))
        return start + operator.damped_pinv(residual, (std / rho) ** 2)


@pytree_dataclass
class LangevinLikelihood(LikelihoodStep):
    """Langevin steps from x, for any differentiable operator and noise model.

    Unadjusted: its bias grows with `step_size`, which must stay below twice the inverse
    of the largest curvature, |A|^2 / s_y^2 + 1 / rho^2.
    """

    needs: ClassVar[tuple[type, type]] = (Operator, object)
    step_size: Any = 1e-4
    num_inner: int = static(default=100)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        def score(z: jax.Array) -> jax.Array:
            return -jax.grad(problem.misfit)(z) - (z - x) / rho**2

        def kernel(noise: jax.Array, z: jax.Array) -> jax.Array:
            return langevin_step(noise, z, score, self.step_size)

        draw = partial(standard_normal, like=x)
        return run_chain(key, kernel, x, self.num_inner, draw=draw)
