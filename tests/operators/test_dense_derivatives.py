"""Derivatives of a dense operator in its matrix, against differences of NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import DenseMatrix, Truncated
from tests.tolerances import EXACT64, FD64

RNG = np.random.default_rng(5)
STEP = 1e-4
CUTOFF, DAMPING = 0.5, 0.3

# Repeated, nearly repeated, vanishing and distinct singular values.
MATRICES = {
    "identity": np.eye(3),
    "wide": np.eye(4)[:2],
    "tall": np.eye(4)[:, :2],
    "zero": np.zeros((2, 4)),
    "singular": np.diag([2.0, 2, 0, 0])[:3],
    "near": np.diag([1, 1 + 1e-9, 0.8, 0.2 + 1e-7, 0.2]),
    "distinct": RNG.normal(size=(3, 5)),
    "unitary": np.fft.fft(np.eye(3)) / np.sqrt(3),
    "complex": RNG.normal(size=(2, 3)) + 1j * RNG.normal(size=(2, 3)),
}


def _draw(size, like):
    drawn = RNG.normal(size=size)
    return drawn + 1j * RNG.normal(size=size) if np.iscomplexobj(like) else drawn


def _real(matrix):
    stacked = np.concatenate([matrix.real, matrix.imag])
    return stacked if np.iscomplexobj(matrix) else matrix


def _expected(matrix, x, y):
    a, b = _real(matrix), _real(y)
    damped = a.T @ a + DAMPING * np.eye(a.shape[1])
    return matrix @ x, a.T @ b, np.linalg.solve(damped, a.T @ b)


def _found(matrix, x, y):
    operator = DenseMatrix.from_array(matrix)
    return operator(x), operator.adjoint(y), operator.damped_pinv(y, DAMPING)


def _difference(function):
    """Return the derivative of a function of a number at 0, to fourth order."""
    ends = [np.concatenate(function(k * STEP)) for k in (2, 1, -1, -2)]
    return (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / (12 * STEP)


def _check(found, expected, matrix, change, arguments):
    """Compare a JVP with differences, and its transpose with the JVP."""

    def concatenated(matrix):
        return jnp.concatenate(found(matrix, *arguments))

    @jax.jit
    def both(matrix, change, weights):
        _, tangent = jax.jvp(concatenated, (matrix,), (change,))
        return tangent, jax.vjp(concatenated, matrix)[1](weights)[0]

    slope = _difference(lambda t: expected(matrix + t * change, *arguments))
    weights = _draw(slope.shape, slope)
    tangent, pulled = both(matrix, change, weights)
    np.testing.assert_allclose(tangent, slope, **FD64)
    np.testing.assert_allclose(
        np.sum(pulled * change).real, np.sum(weights * tangent).real, **FD64
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MATRICES)
def test_maps_and_damped_inverse(name):
    matrix = MATRICES[name]
    change = _draw(matrix.shape, matrix)
    arguments = RNG.normal(size=matrix.shape[1]), _draw(matrix.shape[0], matrix)
    _check(_found, _expected, matrix, change, arguments)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["identity", "wide", "tall", "near", "unitary"])
def test_pseudo_inverse_of_full_rank(name):
    matrix = MATRICES[name]
    change = _draw(matrix.shape, matrix)

    def expected(matrix, y):
        return [np.linalg.pinv(_real(matrix)) @ _real(y)]

    def found(matrix, y):
        return [DenseMatrix.from_array(matrix).pinv(y)]

    _check(found, expected, matrix, change, (_draw(matrix.shape[0], matrix),))


def test_pseudo_inverse_in_a_small_unit():
    """A, y and dA times c leave dx as it is, although 1 / s^2 overflows in float32."""
    matrix, change = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    y, still = RNG.normal(size=3).astype(np.float32), np.zeros(3, np.float32)

    @jax.jit
    def tangent(unit):
        def solved(matrix, y):
            return DenseMatrix.from_array(matrix).pinv(y)

        starts = unit * matrix, unit * y
        return jax.jvp(solved, starts, (unit * change, still))[1]

    found, expected = tangent(np.float32(2.0**-57)), tangent(np.float32(1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_what_is_cut_off():
    def expected(matrix, x, y):
        u, s, vt = np.linalg.svd(matrix)
        kept = (u * np.where(s > CUTOFF * s[0], s, 0)) @ vt
        return kept @ x, np.linalg.pinv(kept, rcond=1e-6) @ y

    def found(matrix, x, y):
        operator = Truncated.create(DenseMatrix.from_array(matrix), CUTOFF)
        return operator(x), operator.pinv(y)

    matrix, change = np.diag([1, 1, 0.2, 0.2]), RNG.normal(size=(4, 4))
    _check(found, expected, matrix, change, RNG.normal(size=(2, 4)))


def test_gradient_at_the_identity_has_the_signal_in_every_row():
    x = jnp.array([1.0, -2.0, 3.0])
    found = jax.grad(lambda a: jnp.sum(DenseMatrix.from_array(a)(x)))(jnp.eye(3))
    np.testing.assert_allclose(found, np.tile(x, (3, 1)), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_factors_and_second_derivatives_where_values_differ():
    """The factors alone give a projector; a Hessian is that of the normal equations."""
    matrix, y = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(RNG.normal(size=2))

    def projector(a):
        right = DenseMatrix.from_array(a).right
        return right.T @ right

    def solved(a):
        return jnp.sum(a.T @ jnp.linalg.solve(a @ a.T + DAMPING * jnp.eye(2), y))

    def found(a):
        return jnp.sum(DenseMatrix.from_array(a).damped_pinv(y, DAMPING))

    @jax.jit
    def derivatives(a):
        exact = jax.jacobian(lambda a: a.T @ jnp.linalg.solve(a @ a.T, a))(a)
        pair = jax.hessian(found)(a), jax.hessian(solved)(a)
        return (jax.jacobian(projector)(a), exact), pair

    for one, other in derivatives(matrix):
        np.testing.assert_allclose(one, other, **EXACT64)


@jax.jit
def _slope_of_damped_inverse(matrix, change, w, y, damping):
    """The derivative of w^T (A + s E)^+ y in s, at 0."""

    def found(s):
        operator = DenseMatrix.from_array(matrix + s * change)
        return jnp.vdot(w, operator.damped_pinv(y, damping))

    return jax.grad(found)(jnp.zeros((), matrix.dtype))


@pytest.mark.parametrize("std", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("shape", [(4, 8), (8, 4), (4, 4)])
def test_little_damping_does_not_enlarge_rounding(shape, std):
    """In single precision; of full rank, where nothing is left out of the factors."""
    rng = np.random.default_rng(1)
    matrix, change = rng.normal(size=shape), rng.normal(size=shape)
    w, y = rng.normal(size=shape[1]), matrix @ rng.normal(size=shape[1])

    def slope(dtype):
        arguments = (dtype(array) for array in (matrix, change, w, y, std**2))
        return float(_slope_of_damped_inverse(*arguments))

    with jax.enable_x64(True):
        exact = slope(np.float64)
    # The largest condition number of the three is 30.
    np.testing.assert_allclose(slope(np.float32), exact, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_pull_backs_at_repeated_values():
    """As solvers take them that differentiate the misfit in x: A^T A x, d(A^T A) x."""
    x, v = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, -1.0, 2.0])
    change = jnp.arange(9.0).reshape(3, 3)

    def found(s):
        operator = DenseMatrix.from_array(jnp.eye(3) + s * change)
        pulled = jax.grad(lambda x: jnp.sum(operator(x) ** 2) / 2)(x)
        return jnp.vdot(v, pulled)

    expected = v @ (change + change.T) @ x
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(derivative(found))(0.0), expected, **EXACT64)
