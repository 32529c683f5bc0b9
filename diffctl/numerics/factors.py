"""Eigen- and singular systems that can be differentiated at repeated values.

With C' = V^T dC V and A' = U^T dA V = E + N, symmetric and antisymmetric parts,

    C = V diag(w) V^T      dw = diag(C'),  dV = V O,    O_ij = C'_ij / (w_j - w_i)
    A = U diag(s) V^T      ds = diag(A'),  dU = U (O + P) + (I - U U^T) dA V / s,
                                           dV = V (O - P) + (I - V V^T) dA^T U / s,
                           O_ij = E_ij / (s_j - s_i),  P_ij = N_ij / (s_i + s_j)

Where values coincide, O is infinite: the factors have no derivative, although functions
of C and A have. There O is 0 here, and what the tangents of the factors then leave out
of dC and dA is the tangent of a remainder, which itself is 0:

    C = V (diag(w) + R) V^T,    A = U diag(s) V^T + R

Functions of C and A that take R along have the right derivatives everywhere.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.numerics.safe import binary_scale, safe_divide
from diffctl.numerics.tangents import tangent_product, with_tangent_of

_HIGHEST = lax.Precision.HIGHEST
System = tuple[jax.Array, jax.Array, jax.Array]


def eigensystem(matrix: jax.Array, values: jax.Array, vectors: jax.Array) -> System:
    """Return w, V and R of C = V (diag(w) + R) V^T, with derivatives in C.

    Args:
        matrix: C, (d, d), symmetric. Only its tangent matters.
        values: its eigenvalues, (d,), however they were found.
        vectors: its eigenvectors, in columns, (d, d).
    """
    values, vectors = lax.stop_gradient((values, vectors))
    values, vectors = _eigenvectors(matrix, values, vectors)
    turned = _matmul(vectors.T, _matmul(_symmetric(matrix), vectors))
    remainder = jnp.zeros_like(matrix)
    return values, vectors, with_tangent_of(remainder, turned - jnp.diag(values))


def psd_eigensystem(matrix: jax.Array) -> System:
    """Return w, V and R as `eigensystem`, of a positive semi-definite C, (d, d).

    Rounding below zero is clipped.
    """
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(matrix))
    return eigensystem(matrix, jnp.maximum(values, 0), vectors)


def shifted_solve(
    values: jax.Array, remainder: jax.Array, shift: jax.Array, b: jax.Array
) -> jax.Array:
    """Return (diag(w) + R + shift I)^{-1} b, 0 where w + shift is 0; b (d,)."""

    def product(x: jax.Array) -> jax.Array:
        return (values + shift) * x + tangent_product(remainder, x)

    def solve(_: Any, b: jax.Array) -> jax.Array:
        return safe_divide(b, lax.stop_gradient(values + shift))

    return lax.custom_linear_solve(product, b, solve, symmetric=True)


@jax.custom_jvp
def log_determinant(values: jax.Array, remainder: jax.Array) -> jax.Array:
    """Return log det(diag(w) + R), (), for w > 0."""
    return jnp.sum(jnp.log(values))


@log_determinant.defjvp
def _log_determinant_jvp(
    primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    values, remainder = primals

    def solve(column: jax.Array) -> jax.Array:
        return shifted_solve(values, remainder, jnp.zeros((), column.dtype), column)

    change = jnp.diag(tangents[0]) + tangents[1]
    return log_determinant(values, remainder), jnp.trace(jax.vmap(solve)(change))


@jax.custom_jvp
def _eigenvectors(
    matrix: jax.Array, values: jax.Array, vectors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return values, vectors


@_eigenvectors.defjvp
def _eigenvectors_jvp(
    primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    values, vectors = _eigenvectors(*primals)
    turned = _matmul(vectors.T, _matmul(_symmetric(tangents[0]), vectors))
    change = _matmul(vectors, turned * _inverse_gaps(values))
    return (values, vectors), (jnp.diagonal(turned), change)


@jax.custom_jvp
def singular_system(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the thin SVD U (m, k), s (k,), V^T (k, n) of a real A (m, n).

    The remainder is A - U diag(s) V^T, for `with_tangent_of(zeros, ...)`.
    """
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, values, right


@singular_system.defjvp
def _singular_system_jvp(
    primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    (change,) = tangents
    left, values, right = singular_system(*primals)
    on_right, on_left = _matmul(change, right.T), _matmul(left.T, change)
    turned = _matmul(left.T, on_right)
    even = _symmetric(turned) * _inverse_gaps(values)
    sums = values[:, None] + values[None, :]
    floor = rounding_level(values)
    odd = (turned - turned.T) / 2 * _inverse(sums, floor)
    inverse = _inverse(values, floor)
    left_dot = _matmul(left, even + odd)
    left_dot += (on_right - _matmul(left, turned)) * inverse[None, :]
    right_dot = _matmul((even - odd).T, right)
    right_dot += inverse[:, None] * (on_left - _matmul(turned, right))
    return (left, values, right), (left_dot, jnp.diagonal(turned), right_dot)


def distinct(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return whether the singular values (k,) of a matrix (m, n) all differ, ().

    Then, and only then, its singular vectors have derivatives. One that is not square
    has zeros besides.
    """
    rows, columns = shape
    padded = jnp.pad(values, (0, int(rows != columns)))
    return jnp.all((_inverse_gaps(padded) != 0) | jnp.eye(padded.size, dtype=bool))


def rounding_level(values: jax.Array) -> jax.Array:
    """Return what singular values (k,) of a factorisation are uncertain by, ()."""
    # Fast transforms and small factors err by a few eps whatever the image size;
    # the usual eps * size would discard a blur's genuine singular values.
    relative = 10 * jnp.finfo(values.dtype).eps * math.sqrt(values.size)
    return relative * jnp.max(values, initial=0.0)


def inverse_values(s: jax.Array, cutoff: Any = 0.0) -> jax.Array:
    """Return 1/s of singular values, (k,), 0 where s is at rounding level.

    Also where it is at or below `cutoff` times the largest.
    """
    unit = binary_scale(s)  # 1 / s^2, the derivative, may overflow
    s = s / unit
    tiny = jnp.maximum(rounding_level(s), cutoff * jnp.max(s, initial=0.0))
    return _inverse(s, tiny) / unit


def _inverse_gaps(values: jax.Array) -> jax.Array:
    """Return 1 / (w_j - w_i), (k, k), 0 where the difference is mostly rounding."""
    gaps = values[None, :] - values[:, None]
    largest = jnp.maximum(values[:, None], values[None, :])
    close = jnp.sqrt(jnp.finfo(values.dtype).eps) * largest
    return _inverse(gaps, jnp.maximum(close, rounding_level(values)))


def _inverse(x: jax.Array, floor: jax.Array) -> jax.Array:
    apart = jnp.abs(x) > floor
    return jnp.where(apart, 1 / jnp.where(apart, x, 1), 0)


def _symmetric(matrix: jax.Array) -> jax.Array:
    return (matrix + matrix.T) / 2


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)
