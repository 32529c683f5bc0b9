"""Maps that act on rows and columns of an image separately, with their SVD.

Per channel, with R (p, H) and C (q, W),

    Y = R X C^T,   R = U_r diag(s_r) V_r^T,   C = U_c diag(s_c) V_c^T,

so the singular vectors are products of those of R and C and the singular values are
s_r[i] s_c[j], the same in every channel. Spectral vectors are stored with the channel
last, as images are: index (i, j, channel), flattened.
"""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require, require_image_shape
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class SingularSystem:
    """Factors of a small matrix: A = u diag(s) vh."""

    u: jax.Array  # (p, k)
    s: jax.Array  # (k,)
    vh: jax.Array  # (k, n)

    @classmethod
    def of(cls, matrix: ArrayLike) -> "SingularSystem":
        """Factorise on the host, in float64, and store in JAX's default precision."""
        u, s, vh = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
        return cls(u=jnp.asarray(u), s=jnp.asarray(s), vh=jnp.asarray(vh))


@pytree_dataclass
class Separable(SpectralOperator):
    """Y = R X C^T in every channel, given by the singular systems of R and C.

    Cost of one application for an n x n image: 4 products of n x n matrices a channel.
    """

    rows: SingularSystem
    cols: SingularSystem
    gain: jax.Array  # (), the largest absolute row sum of the whole map
    shape: tuple[int, ...] = static()

    @classmethod
    def from_matrices(
        cls, shape: tuple[int, int, int], rows: ArrayLike, cols: ArrayLike
    ) -> Self:
        """Build from R (p, H) and C (q, W), concrete matrices."""
        require_image_shape(shape)
        rows, cols = np.asarray(rows, np.float64), np.asarray(cols, np.float64)
        require(
            rows.ndim == cols.ndim == 2
            and (rows.shape[1], cols.shape[1]) == tuple(shape[:2]),
            f"rows and cols have shapes {rows.shape} and {cols.shape}; expected "
            f"(any, {shape[0]}) and (any, {shape[1]}), one column per pixel.",
        )
        return cls(
            rows=SingularSystem.of(rows),
            cols=SingularSystem.of(cols),
            gain=jnp.asarray(np.abs(rows).sum(1).max() * np.abs(cols).sum(1).max()),
            shape=shape,
        )

    @property
    def bound(self) -> jax.Array:
        return self.gain

    @property
    def singular_values(self) -> jax.Array:
        per_channel = self.rows.s[:, None] * self.cols.s[None, :]
        return jnp.repeat(per_channel.ravel(), self.shape[2])

    def v(self, z: jax.Array) -> jax.Array:
        return _both_sides(self.rows.vh.T, self._unflatten(z), self.cols.vh)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return _both_sides(self.rows.vh, x, self.cols.vh.T).ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return _both_sides(self.rows.u, self._unflatten(z), self.cols.u.T)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return _both_sides(self.rows.u.T, y, self.cols.u).ravel()

    def _unflatten(self, z: jax.Array) -> jax.Array:
        return z.reshape(self.rows.s.size, self.cols.s.size, self.shape[2])


def _both_sides(left: jax.Array, image: jax.Array, right: jax.Array) -> jax.Array:
    """Return left @ image @ right in every channel of `image` (h, w, c)."""
    left, right = jnp.asarray(left, image.dtype), jnp.asarray(right, image.dtype)
    return jnp.einsum(
        "ph,hwc,wq->pqc", left, image, right, precision=jax.lax.Precision.HIGHEST
    )
