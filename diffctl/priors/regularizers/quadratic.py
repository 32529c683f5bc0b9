"""Quadratic regularisers: ridge, smoothness, and any linear map of one's own.

R(x) = weight / 2 |L x - target|^2
prox   (I + t L^T L) z = x + t L^T target,   t = step weight
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import QuadraticPrior
from diffctl.numerics.adjoint import adjoint_of
from diffctl.numerics.krylov import conjugate_gradient
from diffctl.numerics.power import squared_operator_norm
from diffctl.numerics.varying import varying_alike
from diffctl.priors.regularizers.checks import check_axes, check_weight
from diffctl.priors.regularizers.differences import differences
from diffctl.pytree import pytree_dataclass, static

LinearFunction = Callable[[jax.Array], jax.Array]


def identity(x: jax.Array) -> jax.Array:
    """Return x: the L of ridge regression."""
    return x


@pytree_dataclass
class Quadratic(QuadraticPrior):
    """R(x) = weight / 2 |L x - target|^2: the density N(x_ref, (weight L^T L)^{-1}).

    Args:
        weight: (), the inverse variance for L = I.
        target: L x_ref.
        linear_map: L, one array to one array of any shape; a `jax.tree_util.Partial`,
            so that arrays in it are leaves.
        norm: a bound of the largest singular value of L.
        shape: of a signal.
        num_inner: conjugate gradients of `prox`; `Tikhonov` does not need it.
    """

    weight: Any
    target: jax.Array
    linear_map: jax.tree_util.Partial
    norm: Any
    shape: tuple[int, ...] = static()
    num_inner: int = static(default=50)

    @classmethod
    def create(
        cls,
        shape: tuple[int, ...],
        weight: Any,
        *,
        reference: Any = None,
        linear_map: LinearFunction = identity,
        norm: float | None = None,
    ) -> "Quadratic":
        """Build from a reference signal, (*shape), grey if left out, and L.

        The norm of L is estimated, with 72 products with L^T L, if it is left out.

        Raises:
            ValueError: a weight that is not positive, or a reference of another shape.
        """
        check_weight(weight)
        reference = jnp.zeros(shape) if reference is None else jnp.asarray(reference)
        if reference.shape != shape:
            raise ValueError(
                f"the reference has shape {reference.shape}; expected {shape}, the "
                "shape of a signal."
            )
        return cls(
            weight=weight,
            target=linear_map(reference),
            linear_map=jax.tree_util.Partial(linear_map),
            norm=_norm_of(linear_map, reference) if norm is None else norm,
            shape=shape,
        )

    @classmethod
    def smoothness(
        cls, shape: tuple[int, ...], weight: Any, axes: tuple[int, ...] = (0, 1)
    ) -> "Quadratic":
        """Build with L the forward differences along `axes`.

        Raises:
            ValueError: a weight that is not positive, or axes that are not those of
                `shape`.
        """
        check_axes(shape, axes)
        along = partial(differences, axes=axes)
        norm = 2.0 * len(axes) ** 0.5
        return cls.create(shape, weight, linear_map=along, norm=norm)

    def energy(self, x: jax.Array) -> jax.Array:
        """Return R(x), ()."""
        return self.weight / 2 * jnp.sum((self.analysis(x) - self.target) ** 2)

    @property
    def splits(self) -> bool:
        return self.linear_map.func is not identity

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        if not self.splits:
            return self.analysis_prox(x, step)
        scaled = self.weight * step

        def matvec(z: jax.Array) -> jax.Array:
            return z + scaled * self.analysis_adjoint(self.analysis(z))

        rhs = x + scaled * self.analysis_adjoint(self.target)
        return conjugate_gradient(matvec, rhs, num_steps=self.num_inner)

    def analysis(self, x: jax.Array) -> jax.Array:
        return self.linear_map(x)

    def analysis_adjoint(self, z: jax.Array) -> jax.Array:
        x, _ = varying_alike((jnp.zeros(self.shape, z.dtype), z))
        return adjoint_of(self.linear_map, x)(z)

    def analysis_prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        scaled = self.weight * step
        return (z + scaled * self.target) / (1 + scaled)

    def analysis_norm(self) -> Any:
        return self.norm


def _norm_of(linear_map: LinearFunction, like: jax.Array) -> Any:
    if linear_map is identity:
        return 1.0

    def normal(x: jax.Array) -> jax.Array:
        return adjoint_of(linear_map, like)(linear_map(x))

    return jnp.sqrt(squared_operator_norm(jax.random.key(0), normal, like))
