"""Conjugate gradients against dense algebra, and the derivatives of both."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import conjugate_gradient, least_squares_cg, linear_adjoint
from tests.tolerances import EXACT32, EXACT64

DIM = 5


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _pinv(matrix, y, damping=0.0):
    def forward(x):
        return matrix @ x

    def adjoint(v):
        return linear_adjoint(forward, matrix.shape[1:], v)

    return least_squares_cg(forward, adjoint, y, num_steps=30, damping=damping)


def _jacobians(f, *args):
    """Return f and its Jacobians in reverse and in forward mode, compiled together."""
    wrt = tuple(range(len(args)))

    def everything(*args):
        return f(*args), jax.jacrev(f, wrt)(*args), jax.jacfwd(f, wrt)(*args)

    return jax.jit(everything)(*args)


@pytest.mark.usefixtures("x64")
def test_solution_and_derivatives_match_the_dense_solve():
    """d x = N^{-1} (db - dN x), whatever the first iterate."""
    factor = _normal(0, DIM, DIM)
    matrix = factor @ factor.T + np.eye(DIM)
    b, x0 = _normal(1, 2, DIM)

    def solve(matrix, b, x0):
        return conjugate_gradient(lambda x: matrix @ x, b, x0=x0, num_steps=3 * DIM)

    x, reverse, forward = _jacobians(solve, matrix, b, x0)
    inverse = np.linalg.inv(matrix)
    expected = (-np.einsum("ij,k->ijk", inverse, x), inverse, np.zeros((DIM, DIM)))
    chex.assert_trees_all_close(x, inverse @ b, **EXACT64)
    chex.assert_trees_all_close(reverse, expected, **EXACT64)
    chex.assert_trees_all_close(forward, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_pytrees_of_complex_arrays():
    factor = _normal(2, DIM, DIM) + 1j * _normal(3, DIM, DIM)
    matrix = factor @ factor.conj().T + np.eye(DIM)
    b = _normal(4, DIM) + 0.5j

    def matvec(tree):
        out = matrix @ jnp.concatenate([tree["a"], tree["b"]])
        return {"a": out[:2], "b": out[2:]}

    @jax.jit
    def solve(b):
        out = conjugate_gradient(matvec, {"a": b[:2], "b": b[2:]}, num_steps=3 * DIM)
        return jnp.concatenate([out["a"], out["b"]])

    chex.assert_trees_all_close(solve(b), np.linalg.solve(matrix, b), **EXACT64)


def test_finished_systems_are_frozen():
    """b an eigenvector: one step is exact, and 49 more must change nothing.

    The derivative is that of the solution, not that of one step, and zero stays zero.
    """
    spectrum = np.arange(1.0, DIM + 1, dtype=np.float32)

    def solve(b):
        return conjugate_gradient(lambda x: spectrum * x, b, num_steps=50)

    b = jnp.stack([6 * jnp.eye(DIM)[2], jnp.zeros(DIM)])
    x, jacobian, _ = jax.vmap(lambda b: _jacobians(solve, b))(b)
    chex.assert_trees_all_close(x, b / spectrum[None], **EXACT32)
    for found in jacobian[0]:
        chex.assert_trees_all_close(found, np.diag(1 / spectrum), **EXACT32)


def test_tolerance_stops_early():
    spectrum = np.arange(1.0, DIM + 1, dtype=np.float32)
    b = jnp.ones(DIM)
    residuals = {}
    for name, options in {"crude": {"tol": 0.3}, "three": {"num_steps": 3}}.items():
        x = conjugate_gradient(lambda x: spectrum * x, b, **options)
        residuals[name] = float(jnp.linalg.norm(b - spectrum * x) / DIM**0.5)
    assert residuals["three"] < residuals["crude"] <= 0.3


@pytest.mark.usefixtures("x64")
def test_least_squares_of_a_rank_deficient_map():
    """Values and both derivatives with respect to y are the pseudo-inverse."""
    matrix = _normal(5, 5, 8)
    matrix[4] = matrix[0] - 2 * matrix[1]
    y = _normal(6, 5)
    x, (reverse,), (forward,) = _jacobians(lambda y: _pinv(matrix, y), y)
    pinv = np.linalg.pinv(matrix)
    chex.assert_trees_all_close(x, pinv @ y, **EXACT64)
    chex.assert_trees_all_close(reverse, pinv, **EXACT64)
    chex.assert_trees_all_close(forward, pinv, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "forward_atol"), [((3, 5), 1e-4), ((5, 3), 1e-8)])
def test_least_squares_derivative_in_the_map(shape, forward_atol):
    """Golub and Pereyra's derivative of the pseudo-inverse at full rank.

    For a wide map the part that rotates the null space is left out, as documented, and
    forward mode amplifies rounding there: 2e-9 measured in optimised programs, 1.4e-5
    in others.
    """
    matrix, y = _normal(7, *shape), _normal(8, shape[0])
    x, (reverse, _), (forward, _) = _jacobians(_pinv, matrix, y)
    pinv = np.linalg.pinv(matrix)
    expected = -np.einsum("ij,k->ijk", pinv, x)
    expected += np.einsum("ik,j->ijk", pinv @ pinv.T, y - matrix @ x)
    chex.assert_trees_all_close(reverse, expected, **EXACT64)
    chex.assert_trees_all_close(forward, expected, rtol=1e-6, atol=forward_atol)


@pytest.mark.usefixtures("x64")
def test_damped_least_squares():
    matrix, y = _normal(9, 3, 5), _normal(10, 3)
    damping = 0.3

    def dense(matrix, y, damping):
        normal = matrix.T @ matrix + damping * jnp.eye(5)
        return jnp.linalg.solve(normal, matrix.T @ y)

    found = _jacobians(_pinv, matrix, y, damping)
    expected = _jacobians(dense, matrix, y, damping)
    chex.assert_trees_all_close(found, expected, **EXACT64)


def test_budget_is_checked():
    with pytest.raises(ValueError, match="num_steps is 0"):
        conjugate_gradient(lambda x: x, jnp.ones(2), num_steps=0)
