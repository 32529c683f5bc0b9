"""A linear operator given by its matrix."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.factors import singular_system
from diffctl.numerics.tangents import tangent_only, with_tangent_of
from diffctl.operators.base import SpectralOperator, SpectralRule
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class DenseMatrix(SpectralOperator):
    """y = A vec(x), stored as the factors A = U diag(s) V^T.

    `x` is flattened in C order, y is (m,). For a complex A the factors are those of the
    real matrix of twice as many rows that maps x to the real and imaginary parts of y;
    U is then complex, with columns that are orthonormal under Re <., .>.

    Derivatives of A x, of its adjoint and of both inverses are those with respect to A
    whatever its singular values are. Those of U, s and V^T are so where singular values
    differ; where they coincide the factors have none, and their change within such a
    group is left out.
    """

    left: jax.Array  # U (m, k), k = min(m, n), or min(2m, n) if complex
    values: jax.Array  # s (k,)
    right: jax.Array  # V^T (k, n)
    # (m, n), A - U diag(s) V^T: zero, but with a tangent, what the factors leave out.
    # None for factors that are not those of a known A.
    remainder: jax.Array | None = None
    shape: tuple[int, ...] = static()

    @classmethod
    def from_array(
        cls, matrix: jax.Array, shape: tuple[int, ...] | None = None
    ) -> "DenseMatrix":
        """Factorise `matrix` (m, n), real or complex; n is the product of `shape`.

        `shape` defaults to (n,). Costs an SVD; traceable.
        """
        matrix = jnp.asarray(matrix)
        require(
            matrix.ndim == 2,
            f"the matrix has shape {matrix.shape}; expected two axes: measurements, "
            "entries of the signal.",
        )
        shape = matrix.shape[1:] if shape is None else shape
        require(
            math.prod(shape) == matrix.shape[1],
            f"the matrix has {matrix.shape[1]} columns but a signal of shape {shape} "
            f"has {math.prod(shape)} entries. Make them agree.",
        )
        if not jnp.iscomplexobj(matrix):
            left, values, right = singular_system(matrix)
        else:
            stacked = jnp.concatenate([matrix.real, matrix.imag])
            left, values, right = singular_system(stacked)
            left = jax.lax.complex(*jnp.split(left, 2))
        rest = matrix - _product(left * values[None, :], right.astype(matrix.dtype))
        return cls(
            left=left,
            values=values,
            right=right,
            remainder=with_tangent_of(jnp.zeros_like(rest), rest),
            shape=shape,
        )

    @property
    def singular_values(self) -> jax.Array:
        return self.values

    def to_measurement(
        self, rule: SpectralRule, x: jax.Array, *parameters: Any
    ) -> jax.Array:
        found = super().to_measurement(rule, x, *parameters)
        if self.remainder is None:
            return found
        factors = self.remainder, self.left, self.values
        return found + _missing(rule, factors, x.ravel(), parameters, found)

    def to_signal(
        self, rule: SpectralRule, y: jax.Array, *parameters: Any
    ) -> jax.Array:
        found = super().to_signal(rule, y, *parameters)
        if self.remainder is None:
            return found
        factors = jnp.conj(self.remainder.T), self.right.T, self.values
        return found + _missing(rule, factors, y, parameters, found)

    def v(self, z: jax.Array) -> jax.Array:
        return _product(self.right.T.astype(z.dtype), z).reshape(self.shape)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return _product(self.right.astype(x.dtype), x.ravel())

    def u(self, z: jax.Array) -> jax.Array:
        return _product(self.left.astype(self._dtype_like(z)), z)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        left = self.left.astype(self._dtype_like(y))
        return _product(jnp.conj(left.T), y).real

    def _dtype_like(self, array: jax.Array) -> jnp.dtype:
        """Return the dtype of U at the precision of `array`."""
        precision = jnp.finfo(array.dtype).dtype
        if jnp.iscomplexobj(self.left):
            return jnp.result_type(precision, jnp.complex64)
        return precision


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _missing(
    rule: SpectralRule,
    factors: tuple[jax.Array, ...],
    x: jax.Array,
    parameters: tuple[Any, ...],
    like: jax.Array,
) -> jax.Array:
    """Return zeros like `like`, with the tangent that U, s and V^T leave out of it."""
    parameters = tuple(map(jnp.asarray, parameters))
    missing = tangent_only(partial(_left_out, rule), *factors, x, *parameters)
    return missing.astype(like.dtype).reshape(like.shape)


def _left_out(
    rule: SpectralRule,
    remainder: jax.Array,
    basis: jax.Array,
    s: jax.Array,
    x: jax.Array,
    *parameters: jax.Array,
) -> jax.Array:
    """Return what `remainder` adds to `basis rule(s, ...)`, in first order.

    It acts within groups of equal singular values, where it is multiplied by the slope
    of the rule. Outside the basis they are 0.
    """

    def sloped(s: jax.Array, z: jax.Array) -> jax.Array:
        s = s.astype(z.dtype)
        return jax.jvp(lambda s: rule(s, z, *parameters), (s,), (jnp.ones_like(s),))[1]

    change = _product(remainder, x.astype(jnp.result_type(x, remainder)))
    if not jnp.iscomplexobj(basis):
        change = change.real
    inside = _product(jnp.conj(basis.T), change).real
    outside = change - _product(basis, inside.astype(basis.dtype))
    free = sloped(jnp.zeros(outside.shape, s.dtype), outside.real)
    if jnp.iscomplexobj(basis):
        imaginary = sloped(jnp.zeros(outside.shape, s.dtype), outside.imag)
        free = jax.lax.complex(free, imaginary)
    return _product(basis, sloped(s, inside).astype(basis.dtype)) + free
