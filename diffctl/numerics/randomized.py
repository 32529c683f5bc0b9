"""Randomized factorizations of a Jacobian or Hessian known only through products.

Range finder, for M of size m x d with k = rank + oversampling probes:

    (1)  Y = M Omega,  Omega ~ N(0, 1), d x k
    (2)  Q = orth(Y);  repeated: Z = orth(M^T Q),  Q = orth(M Z)
    (3)  E |M - Q Q^T M| <= (1 + 4 sqrt(k min(m, d)) / (oversampling - 1)) s_{rank+1}

without the repetition, and exact if M has at most k non-zero singular values. Then

    (4)  M ~ Q (Q^T M) = Q (W diag(s) V^T),  U = Q W            (SVD)
    (5)  H ~ Q (Q^T H Q) Q^T = Q (W diag(l) W^T) Q^T,  U = Q W   (symmetric)

Source: Halko, Martinsson, Tropp, Finding structure with randomness, 2011.

Derivatives: QR and eigenvectors have none where singular values vanish or coincide, so
the bases are constants to autodiff, and s and l carry their first-order derivatives
u^T dM v and u^T dH u, which are finite everywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.numerics.batching import chunked_vmap
from diffctl.numerics.safe import binary_scale
from diffctl.numerics.vectors import (
    from_vector,
    to_vector,
    vector_dtype,
    vector_size,
    vectorized,
)

Product = Callable[[jax.Array], jax.Array]
HIGHEST = lax.Precision.HIGHEST


class SingularFactors(NamedTuple):
    """M ~ u diag(singular_values) v^T, largest singular value first."""

    u: jax.Array  # (m, rank), orthonormal columns
    singular_values: jax.Array  # (rank,)
    v: jax.Array  # (d, rank), orthonormal columns


class EigenFactors(NamedTuple):
    """H ~ u diag(eigenvalues) u^T, largest eigenvalue first."""

    u: jax.Array  # (d, rank), orthonormal columns
    eigenvalues: jax.Array  # (rank,), non-negative


def range_finder(
    product: Product,
    transposed: Product,
    probes: jax.Array,
    *,
    num_power_iterations: int = 1,
    probe_chunk: int | None = None,
) -> jax.Array:
    """Return an orthonormal basis Q of the dominant range of a matrix M, eqs (1)-(2).

    Args:
        product: v -> M v, (d,) -> (m,).
        transposed: w -> M^T w, (m,) -> (d,).
        probes: test vectors, one per column, (d, k) with k <= min(m, d).
        num_power_iterations: each sharpens the decay of the spectrum by its square, for
            k products with M and k with M^T; QR in between keeps small directions.
        probe_chunk: number of products computed at once; None for all.

    Returns:
        Q, (m, k). Costs k (1 + num_power_iterations) products with M and
        k num_power_iterations with M^T.
    """
    basis = _orthonormal(_columns(product, probes, probe_chunk))
    for _ in range(num_power_iterations):
        co_basis = _orthonormal(_columns(transposed, basis, probe_chunk))
        basis = _orthonormal(_columns(product, co_basis, probe_chunk))
    return basis


def randomized_svd(
    f: Callable[[Any], Any],
    x: Any,
    key: jax.Array,
    *,
    rank: int,
    oversampling: int = 5,
    num_power_iterations: int = 1,
    probe_chunk: int | None = None,
) -> SingularFactors:
    """Return the leading singular system of the Jacobian of `f` at `x`, eq (4).

    The Jacobian is never formed: only `jax.jvp` and its transpose are used.

    Args:
        f: differentiable function from one pytree of arrays to another.
        x: where to linearize it.
        key: typed PRNG key of the probes.
        rank: number of singular triplets, between 1 and min(m, d).
        oversampling: further probes for accuracy, at least 0; see eq (3).
        num_power_iterations: see `range_finder`.
        probe_chunk: number of products computed at once; None for all.

    Returns:
        Factors in the coordinates of `diffctl.numerics.vectors.to_vector`: (m, rank),
        (rank,), (d, rank). With k = min(rank + oversampling, m, d) and q power
        iterations this costs one evaluation of `f`, k (1 + q) JVPs and k (1 + q) VJPs.
        Raises `ValueError` for a rank or an oversampling out of range.
    """
    start = to_vector(x)
    y, jvp = jax.linearize(vectorized(f, x), start)
    (num_rows,), (num_columns,) = y.shape, start.shape
    num_probes = _num_probes(rank, oversampling, min(num_rows, num_columns))
    transpose = jax.linear_transpose(jvp, start)

    def vjp(w: jax.Array) -> jax.Array:
        return transpose(w)[0]

    probes = jax.random.normal(key, (num_columns, num_probes), start.dtype)
    q = range_finder(
        jvp,
        vjp,
        probes,
        num_power_iterations=num_power_iterations,
        probe_chunk=probe_chunk,
    )
    projected = _columns(vjp, q, probe_chunk)  # M^T Q, (d, k)
    right, small = jnp.linalg.qr(_scaled(projected))
    w_v, _, w_u = jnp.linalg.svd(small)  # M^T Q = right (w_v s w_u)
    v = _matmul(right, w_v[:, :rank])
    rotation = w_u[:rank].T
    singular_values = jnp.sum(v * _matmul(projected, rotation), axis=0)
    return SingularFactors(_matmul(q, rotation), singular_values, v)


def randomized_eigh(
    hvp: Callable[[Any], Any],
    x_spec: Any,
    key: jax.Array,
    *,
    rank: int,
    oversampling: int = 5,
    num_power_iterations: int = 1,
    probe_chunk: int | None = None,
) -> EigenFactors:
    """Return the leading eigenpairs of a positive semi-definite H, eq (5).

    Args:
        hvp: v -> H v, linear and symmetric, of the structure of `x_spec`; for instance
            from `gauss_newton_hvp`.
        x_spec: an argument of `hvp`, as arrays or `jax.ShapeDtypeStruct`s.
        key: typed PRNG key of the probes.
        rank: number of eigenpairs, between 1 and d.
        oversampling: further probes for accuracy, at least 0.
        num_power_iterations: each multiplies the sketch by H once more.
        probe_chunk: number of products computed at once; None for all.

    Returns:
        Factors in the coordinates of `diffctl.numerics.vectors.to_vector`. Directions
        beyond the rank of H have eigenvalue 0 up to rounding, clipped from below at 0.
        With k = min(rank + oversampling, d) and q power iterations this costs
        k (2 + q) products with H. Raises `ValueError` for a rank or an oversampling
        out of range.
    """
    dim, dtype = vector_size(x_spec), vector_dtype(x_spec)
    num_probes = _num_probes(rank, oversampling, dim)

    def product(vector: jax.Array) -> jax.Array:
        return to_vector(hvp(from_vector(vector, x_spec))).astype(dtype)

    q = _orthonormal(jax.random.normal(key, (dim, num_probes), dtype))
    for _ in range(1 + num_power_iterations):
        q = _orthonormal(_columns(product, q, probe_chunk))
    small = _matmul(q.T, _columns(product, q, probe_chunk))
    small = (small + small.T) / 2
    _, vectors = jnp.linalg.eigh(_scaled(small))
    rotation = vectors[:, : -rank - 1 : -1]
    eigenvalues = jnp.sum(rotation * _matmul(small, rotation), axis=0)
    return EigenFactors(_matmul(q, rotation), jnp.maximum(eigenvalues, 0))


def gauss_newton_hvp(
    f: Callable[[Any], Any], loss: Callable[[Any], jax.Array], x: Any
) -> Callable[[Any], Any]:
    """Return v -> J^T H J v, with J = f'(x) and H = loss''(f(x)).

    This is the Gauss-Newton Hessian of loss(f(x)): positive semi-definite if `loss` is
    convex, and exact if `f` is linear.

    Args:
        f: differentiable map of a pytree of arrays to another, real or complex.
        loss: twice differentiable, of f(x), with a real scalar value.
        x: where to linearize `f`.

    Returns:
        The product, of the structure of `x`. Each costs a JVP and a VJP of `f`, and a
        JVP of the gradient of `loss`; `f` itself is evaluated once.
    """
    start = to_vector(x)
    y_spec = jax.eval_shape(f, x)
    y, jvp = jax.linearize(vectorized(f, x), start)
    transpose = jax.linear_transpose(jvp, start)
    loss_gradient = jax.grad(lambda vector: loss(from_vector(vector, y_spec)))

    def product(v: Any) -> Any:
        _, curved = jax.jvp(loss_gradient, (y,), (jvp(to_vector(v)),))
        return from_vector(transpose(curved)[0], x)

    return product


def _num_probes(rank: int, oversampling: int, limit: int) -> int:
    if not 1 <= rank <= limit:
        raise ValueError(
            f"rank is {rank}, but the matrix has {limit} singular values at most; "
            f"choose a rank between 1 and {limit}."
        )
    if oversampling < 0:
        raise ValueError(f"oversampling is {oversampling}; it must be at least 0.")
    return min(rank + oversampling, limit)


def _columns(product: Product, matrix: jax.Array, chunk: int | None) -> jax.Array:
    """Return the product with every column: (d, k) -> (m, k)."""
    return chunked_vmap(product, chunk)(matrix.T).T


def _orthonormal(matrix: jax.Array) -> jax.Array:
    q, _ = jnp.linalg.qr(_scaled(matrix))
    return q


def _scaled(matrix: jax.Array) -> jax.Array:
    """Return the matrix, as a constant, in a unit whose squares fit.

    Not every device's factorisations scale by themselves; the factors that are used
    here do not depend on it.
    """
    constant = lax.stop_gradient(matrix)
    return constant / binary_scale(constant)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)
