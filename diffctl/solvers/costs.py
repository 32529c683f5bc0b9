"""What a guided solver compares with the measurement: costs of a clean signal.

A terminal cost is a strategy `cost(problem) -> ComposedCost`, a function of x0 whose
value, gradient and Gauss-Newton factors follow from a map and an outer loss.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.control import ComposedCost, GaussianLoss, NormLoss, OuterLoss
from diffctl.numerics.safe import safe_sqrt
from diffctl.numerics.vectors import from_vector, to_vector
from diffctl.operators.base import NoiseModel, Problem
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class LikelihoodLoss(OuterLoss):
    """-log p(y | z) of the flattened clean measurement z, up to a constant."""

    y: Any
    noise: NoiseModel
    like: Any = static()  # of the clean measurement: (shape, is complex) and structure

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.noise.neg_log_likelihood(self.y, self._unflatten(z))

    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        clean, direction = self._unflatten(z), self._unflatten(w)
        return to_vector(self.noise.hessian_root(self.y, clean, direction))

    def _unflatten(self, z: jax.Array) -> Any:
        leaves, structure = self.like
        # The precision is that of z; only the kind of number belongs to the operator.
        complex_dtype = jnp.result_type(z.dtype, jnp.complex64)
        shapes = [
            jax.ShapeDtypeStruct(shape, complex_dtype if is_complex else z.dtype)
            for shape, is_complex in leaves
        ]
        return from_vector(z, jax.tree.unflatten(structure, shapes))


def likelihood(problem: Problem) -> ComposedCost:
    """Return l0(x0) = -log p(y | x0), with the noise model's own Hessian."""
    leaves, structure = jax.tree.flatten(problem.operator.measurement_spec())
    like = tuple((leaf.shape, jnp.iscomplexobj(leaf)) for leaf in leaves)
    loss = LikelihoodLoss(y=problem.y, noise=problem.noise, like=(like, structure))
    return ComposedCost(map=problem.operator, loss=loss)


def residual_norm(problem: Problem) -> ComposedCost:
    """Return l0(x0) = |A(x0) - y|, not squared and without the noise level."""

    return ComposedCost(map=problem.residual, loss=NormLoss())


def squared_residual(problem: Problem) -> ComposedCost:
    """Return l0(x0) = |A(x0) - y|^2, without the noise level."""
    return ComposedCost(map=problem.residual, loss=GaussianLoss(std=math.sqrt(0.5)))


def averaging_count(problem: Problem) -> Any:
    """Return m, the number of entries observed, for averages over them, ().

    1 where nothing is observed: a mean of nothing is 0, not 0 / 0.
    """
    count = problem.operator.num_observed()
    return max(count, 1) if isinstance(count, int) else jnp.maximum(count, 1)


def mean_squared_residual(problem: Problem) -> ComposedCost:
    """Return l0(x0) = |A(x0) - y|^2 / m, m the number of entries observed."""
    std = safe_sqrt(averaging_count(problem) / 2)
    return ComposedCost(map=problem.residual, loss=GaussianLoss(std=std))
