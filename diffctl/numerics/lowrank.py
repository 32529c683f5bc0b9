"""Symmetric matrices of the form a I + U C U^T, with U tall and C small.

    (1)  S = C (a I + G C)^{-1} = (a I + C G)^{-1} C,  G = U^T U    symmetric, r x r
    (2)  (a I + U C U^T)^{-1} b = (b - U S U^T b) / a
    (3)  a S = C - C U^T (a I + U C U^T)^{-1} U C

C is positive semi-definite and may be singular: nothing here inverts it. These are the
steps of the factored Riccati recursion of `diffctl.control`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from diffctl.numerics.factors import psd_eigensystem
from diffctl.numerics.safe import safe_divide, safe_sqrt

HIGHEST = lax.Precision.HIGHEST


def woodbury_core(shift: ArrayLike, gram: jax.Array, core: jax.Array) -> jax.Array:
    """Return S = C (a I + G C)^{-1}, eq (1).

    Args:
        shift: a > 0, scalar.
        gram: G = U^T U, (r, r), symmetric positive semi-definite.
        core: C, (r, r), symmetric positive semi-definite, singular allowed.

    Returns:
        S, (r, r), symmetric positive semi-definite up to rounding. Smooth in all
        arguments: the matrix that is solved with has no eigenvalue below a.
    """
    rank = core.shape[-1]
    system = shift * jnp.eye(rank, dtype=core.dtype) + _matmul(core, gram)
    solved = jnp.linalg.solve(system, core)
    return (solved + solved.T) / 2


def woodbury_solve(
    shift: ArrayLike, basis: jax.Array, core: jax.Array, b: jax.Array
) -> jax.Array:
    """Return (a I + U C U^T)^{-1} b, eq (2), in O(d r^2) operations.

    Args:
        shift: a > 0, scalar.
        basis: U, (d, r); its columns need not be orthonormal or independent.
        core: C, (r, r), symmetric positive semi-definite, singular allowed.
        b: (d,) or (d, n).
    """
    s = woodbury_core(shift, _matmul(basis.T, basis), core)
    return (b - _matmul(basis, _matmul(s, _matmul(basis.T, b)))) / shift


def psd_factor(matrix: jax.Array) -> jax.Array:
    """Return L with L L^T = C for a positive semi-definite C, (r, r) -> (r, r).

    From the eigenvalues, clipped at 0, so a singular C and rounding below zero are
    fine, which they are not for a Cholesky factor. Derivatives satisfy
    dL L^T + L dL^T = dC, also where eigenvalues coincide (there of first order only),
    but for changes within the null space of C, which L has no derivative in.
    """
    values, vectors, remainder = psd_eigensystem(matrix)
    roots = safe_sqrt(values)
    slopes = safe_divide(1, roots[:, None] + roots[None, :])
    return _matmul(vectors, jnp.diag(roots) + slopes * remainder)


def truncate(
    basis: jax.Array, core: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array]:
    """Return the best approximation of rank `rank` to U C U^T, orthonormal.

    Thin QR of U, then the eigenvalues of R C R^T; those below machine epsilon times the
    largest are set to zero. To autodiff the new basis is a constant.

    Args:
        basis: U, (d, r).
        core: C, (r, r), symmetric positive semi-definite.
        rank: columns to keep, between 1 and min(d, r).

    Returns:
        New U, (d, rank), with orthonormal columns, and new C, (rank, rank), diagonal
        with the largest eigenvalue first. Raises `ValueError` for a rank out of range.
    """
    limit = min(basis.shape)
    if not 1 <= rank <= limit:
        raise ValueError(
            f"rank is {rank}, but the factors have rank {limit} at most; choose one "
            f"between 1 and {limit}."
        )
    q, _ = jnp.linalg.qr(lax.stop_gradient(basis))
    r = _matmul(q.T, basis)
    small = _matmul(_matmul(r, core), r.T)
    _, vectors = jnp.linalg.eigh(lax.stop_gradient(small + small.T))
    rotation = vectors[:, : -rank - 1 : -1]
    eigenvalues = jnp.sum(rotation * _matmul(small, rotation), axis=0)
    negligible = eigenvalues < jnp.finfo(core.dtype).eps * eigenvalues[0]
    kept = jnp.where(negligible, 0, eigenvalues)
    return _matmul(q, rotation), jnp.diag(kept)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)
