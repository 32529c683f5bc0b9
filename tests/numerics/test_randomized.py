"""Randomized factorizations against exact spectra and the bound of their authors."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import (
    from_vector,
    gauss_newton_hvp,
    randomized_eigh,
    randomized_svd,
    range_finder,
    to_vector,
)
from tests.tolerances import EXACT32, EXACT64


def _orthogonal(seed, rows, columns):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


def _with_spectrum(seed, rows, columns, spectrum):
    left = _orthogonal(seed, rows, len(spectrum))
    right = _orthogonal(seed + 1000, columns, len(spectrum))
    return (left * spectrum) @ right.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(9, 12), (12, 9)])
def test_exact_for_low_rank_jacobians(shape):
    """A non-linear f with a known Jacobian of rank 3, sketched with rank 3 and 5."""
    matrix = _with_spectrum(0, *shape, [5.0, 2.0, 1e-3])
    x = np.random.default_rng(1).normal(size=shape[1])
    jacobian = np.cos(matrix @ x)[:, None] * matrix
    exact = np.linalg.svd(jacobian, compute_uv=False)

    @jax.jit
    def factorize(x, key):
        def f(x):
            return jnp.sin(matrix @ x)

        options = {"oversampling": 0, "probe_chunk": 2}
        return (
            randomized_svd(f, x, key, rank=3),
            randomized_svd(f, x, key, rank=5, **options),
        )

    for u, s, v in factorize(x, jax.random.key(2)):
        rank = s.size
        chex.assert_trees_all_close((u * s[None]) @ v.T, jacobian, **EXACT64)
        chex.assert_trees_all_close(s, exact[:rank], **EXACT64)
        chex.assert_trees_all_close(u.T @ u, np.eye(rank), **EXACT64)
        chex.assert_trees_all_close(v.T @ v, np.eye(rank), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_mean_error_obeys_the_published_bounds():
    """Mean over 64 fixed keys without power iteration, spectra 1/j and 0.7^j.

    The simple bound is eq (3) of the module; the sharp one is Theorem 10.6 of Halko,
    Martinsson and Tropp, (1 + sqrt(r/(p-1))) s_{r+1} + e sqrt(r+p)/p |s_{>r}|.
    """
    rows, columns, rank, oversampling = 30, 24, 4, 5
    num_probes = rank + oversampling
    index = np.arange(1, columns + 1)

    @jax.jit
    def residuals(matrix, keys):
        def residual(key, num_power_iterations):
            q = range_finder(
                lambda v: matrix @ v,
                lambda w: matrix.T @ w,
                jax.random.normal(key, (columns, num_probes)),
                num_power_iterations=num_power_iterations,
            )
            return matrix - q @ (q.T @ matrix)

        return [jax.vmap(lambda key, q=q: residual(key, q))(keys) for q in (0, 2)]

    for spectrum in (1 / index, 0.7**index):
        matrix = _with_spectrum(3, rows, columns, spectrum)
        plain, powered = (
            np.linalg.norm(batch, ord=2, axis=(1, 2))
            for batch in residuals(matrix, jax.random.split(jax.random.key(4), 64))
        )
        simple = 1 + 4 * math.sqrt(num_probes * columns) / (oversampling - 1)
        sharp = (1 + math.sqrt(rank / (oversampling - 1))) * spectrum[rank] + (
            math.e * math.sqrt(num_probes) / oversampling
        ) * np.linalg.norm(spectrum[rank:])
        assert plain.mean() <= sharp <= simple * spectrum[rank]
        # No basis of k vectors beats s_{k+1}; power iterations come close to it.
        optimum = spectrum[num_probes] * (1 - 1e-12)
        assert plain.min() >= optimum
        assert optimum <= powered.mean() < 0.8 * plain.mean()


@pytest.mark.usefixtures("x64")
def test_eigenpairs_of_a_gauss_newton_hessian_on_a_pytree():
    """f maps a pytree to complex and real arrays; the loss is not quadratic."""
    x = {"a": np.array([0.3, -0.2]), "b": np.array([[0.5], [0.1], [0.7]])}
    weights = np.random.default_rng(5).normal(size=(4, 5))
    vector = np.arange(5.0)

    def f(x):
        flat = jnp.concatenate([x["a"], x["b"][:, 0]])
        product = jnp.tanh(weights @ flat)
        return {
            "complex": product[:2] * jnp.exp(1j * product[2:]),
            "real": flat[0] ** 2,
        }

    def loss(y):
        return jnp.sum(jnp.abs(y["complex"] - 1.0) ** 2) + jnp.cosh(y["real"])

    @jax.jit
    def everything(x, key):
        y = f(x)
        jacobian = jax.jacfwd(lambda v: to_vector(f(from_vector(v, x))))(to_vector(x))
        curvature = jax.hessian(lambda v: loss(from_vector(v, y)))(to_vector(y))
        hvp = gauss_newton_hvp(f, loss, x)
        product = to_vector(hvp(from_vector(vector, x)))
        factors = randomized_eigh(hvp, x, key, rank=5, probe_chunk=2)
        return jacobian.T @ curvature @ jacobian, product, factors

    dense, product, (u, eigenvalues) = everything(x, jax.random.key(6))
    chex.assert_trees_all_close(product, dense @ vector, **EXACT64)
    chex.assert_trees_all_close((u * eigenvalues[None]) @ u.T, dense, **EXACT64)
    exact = np.linalg.eigvalsh(dense)[::-1]
    chex.assert_trees_all_close(eigenvalues, exact, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_eigenvalues_converge_at_the_rate_of_the_power_iterations():
    """Ritz values: errors of (s_{r+p+1} / s_r)^(2q+2), about 64^-2, 64^-4, 64^-6."""
    spectrum = 0.5 ** np.arange(20)
    vectors = _orthogonal(8, 20, 20)
    matrix = (vectors * spectrum) @ vectors.T

    @jax.jit
    def factorize(key):
        def with_power(num_power_iterations):
            return randomized_eigh(
                lambda v: matrix @ v,
                jnp.zeros(20),
                key,
                rank=4,
                num_power_iterations=num_power_iterations,
            )

        return [with_power(q) for q in (0, 1, 2)]

    factors = factorize(jax.random.key(9))
    for (u, eigenvalues), bound in zip(factors, (1e-2, 1e-5, 1e-8), strict=True):
        chex.assert_trees_all_close(u.T @ u, np.eye(4), **EXACT64)
        assert np.abs(eigenvalues / spectrum[:4] - 1).max() < bound


@pytest.mark.usefixtures("x64")
def test_spectra_carry_their_derivatives_even_where_they_vanish():
    """Rank 1 sketched with rank 3: QR and eigenvectors alone would give NaN."""
    direction = np.array([1.0, 2.0, 2.0, 0.0])

    def spectra(scale, key):
        def product(v):
            return scale * direction * jnp.vdot(direction, v)

        return (
            randomized_eigh(product, direction, key, rank=3).eigenvalues[:2],
            randomized_svd(product, direction, key, rank=2).singular_values,
        )

    key = jax.random.key(10)
    forward = jax.jit(jax.jacfwd(spectra))(2.0, key)
    reverse = jax.jit(jax.jacrev(spectra))(2.0, key)
    chex.assert_tree_all_finite((forward, reverse))
    for found in (*forward, *reverse):
        chex.assert_trees_all_close(found[0], 9.0, **EXACT64)
    chex.assert_trees_all_close(reverse, forward, **EXACT64)


def test_half_precision_is_cast_up():
    spectrum = np.array([4.0, 2.0], np.float32)
    half = jnp.asarray(_with_spectrum(11, 6, 6, spectrum), jnp.bfloat16)

    @jax.jit
    def factorize(x, key):
        return randomized_svd(lambda x: half @ x, x, key, rank=2)

    u, s, _ = factorize(np.ones(6, jnp.bfloat16), jax.random.key(12))
    assert u.dtype == s.dtype == jnp.float32
    # bfloat16 keeps 8 bits, so products are good to 4e-3.
    chex.assert_trees_all_close(s, spectrum, rtol=2e-2)


def test_batches_of_examples_in_single_precision():
    matrices = np.stack([_with_spectrum(i, 5, 8, [3.0, 1.0]) for i in (13, 14)])
    matrices = matrices.astype(np.float32)

    @jax.jit
    @jax.vmap
    def rebuild(matrix, key):
        def f(image):
            return matrix @ image.reshape(-1)

        u, s, v = randomized_svd(f, jnp.zeros((2, 4)), key, rank=2)
        return (u * s[None]) @ v.T

    found = rebuild(matrices, jax.random.split(jax.random.key(15)))
    chex.assert_trees_all_close(found, matrices, **EXACT32)


def test_ranks_are_checked():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="rank is 4"):
        randomized_svd(lambda x: x[:3], jnp.ones(5), key, rank=4)
    with pytest.raises(ValueError, match="oversampling is -1"):
        randomized_eigh(lambda x: x, jnp.ones(5), key, rank=4, oversampling=-1)
