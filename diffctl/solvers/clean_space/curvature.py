"""The largest curvature of the misfit at a point: what bounds a stable step."""

import abc

import jax
import jax.numpy as jnp

from diffctl.numerics.power import largest_eigenvalue
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static


class Curvature(abc.ABC):
    """A choice of h, the curvature of -log p(y | A(x)) that a step allows for."""

    @abc.abstractmethod
    def __call__(self, key: jax.Array, problem: Problem, x: jax.Array) -> jax.Array:
        """Return h, (), at `x` (*shape)."""


@pytree_dataclass
class PowerIteration(Curvature):
    """The largest eigenvalue of the Gauss-Newton Hessian, estimated from below.

    Args:
        num_products: power iterations, a JVP and a VJP of the operator each.
    """

    num_products: int = static(default=3)

    def __call__(self, key: jax.Array, problem: Problem, x: jax.Array) -> jax.Array:
        return largest_eigenvalue(
            key, lambda v: problem.gauss_newton(x, v), x, num_steps=self.num_products
        )


@pytree_dataclass
class NoCurvature(Curvature):
    """0: a step as long as if there were no data. It diverges for precise data."""

    def __call__(self, key: jax.Array, problem: Problem, x: jax.Array) -> jax.Array:
        return jnp.zeros((), x.dtype)
