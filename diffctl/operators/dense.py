"""A linear operator given by its matrix."""

import math

import jax
import jax.numpy as jnp

from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class DenseMatrix(SpectralOperator):
    """y = A vec(x), stored as the factors A = U diag(s) V^T.

    `x` is flattened in C order, y is (m,). For a complex A the factors are those of the
    real matrix of twice as many rows that maps x to the real and imaginary parts of y;
    U is then complex, with columns that are orthonormal under Re <., .>.
    """

    left: jax.Array  # U (m, k), k = min(m, n), or min(2m, n) if complex
    values: jax.Array  # s (k,)
    right: jax.Array  # V^T (k, n)
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
            left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
            return cls(left=left, values=values, right=right, shape=shape)
        stacked = jnp.concatenate([matrix.real, matrix.imag])
        left, values, right = jnp.linalg.svd(stacked, full_matrices=False)
        left = jax.lax.complex(*jnp.split(left, 2))
        return cls(left=left, values=values, right=right, shape=shape)

    @property
    def singular_values(self) -> jax.Array:
        return self.values

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
