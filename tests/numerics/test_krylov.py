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


def _close(found, expected, rtol=1e-5):
    """Relative to the size of the whole, whatever that is."""
    error = np.linalg.norm(np.asarray(found, complex) - expected)
    assert error < rtol * np.linalg.norm(expected), error


@pytest.mark.parametrize(
    ("b_unit", "map_unit"),
    [
        (1e-20, 1.0),
        (1e19, 1.0),
        (1.0, 1e-30),
        (1.0, 3e15),
        (1e-20, 1e-25),
        (1e19, 3e9),
    ],
)
def test_neither_unit_of_a_system_matters(b_unit, map_unit):
    """Also in a batch with a zero and a NaN, and for the derivative in b."""
    factor = _normal(11, DIM, DIM)
    matrix = np.asarray(map_unit * (factor @ factor.T + DIM * np.eye(DIM)), np.float32)
    b = jnp.asarray(b_unit * _normal(12, DIM), jnp.float32)
    expected = np.linalg.solve(matrix.astype(float), np.asarray(b, float))

    def solve(b):
        return conjugate_gradient(lambda x: jnp.asarray(matrix) @ x, b, num_steps=20)

    batch = jnp.stack([b, jnp.zeros(DIM), b.at[0].set(jnp.nan), 1e-3 * b])
    found = jax.jit(jax.vmap(solve))(batch)
    _close(found[0], expected)
    _close(found[3], 1e-3 * expected)
    assert jnp.all(found[1] == 0)
    assert jnp.all(jnp.isnan(found[2]))
    gradient = jax.grad(lambda b: 1e-17 * jnp.sum(solve(b)))(b)
    _close(1e17 * gradient, np.linalg.inv(matrix.astype(float)).sum(0))


@pytest.mark.parametrize("unit", [1e-25, 1e-12, 3e-6, 1.0, 1e12])
def test_least_squares_do_not_depend_on_the_unit(unit):
    """Values, and derivatives of a loss of 1e-17 in the map and in y."""
    matrix, y = _normal(13, 3, 5), _normal(14, 3)

    def loss(matrix, y):
        return 1e-17 * jnp.sum(jnp.sin(_pinv(matrix, y)))

    scaled = jnp.asarray(unit * matrix, jnp.float32), jnp.asarray(unit * y, jnp.float32)
    x, gradients = _pinv(*scaled), jax.grad(loss, (0, 1))(*scaled)
    pinv = np.linalg.pinv(matrix)
    expected, pulled = pinv @ y, pinv.T @ np.cos(pinv @ y)
    _close(x, expected)
    _close(np.asarray(gradients[1], float) * 1e17 * unit, pulled, rtol=1e-4)
    in_map = -np.outer(pulled, expected)
    in_map += np.outer(y - matrix @ expected, pinv @ pulled)
    # What turns the null space is left out, as documented: compared within the rows.
    _close(np.asarray(gradients[0], float) * 1e17 * unit, in_map, rtol=1e-4)


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_a_damped_solve_in_another_unit_is_the_same(unit):
    matrix = jnp.asarray(_normal(15, 3, 5), jnp.float32)
    y = jnp.asarray(_normal(16, 3), jnp.float32)
    found = _pinv(unit * matrix, unit * y, unit**2 * 0.3)
    chex.assert_trees_all_equal(found, _pinv(matrix, y, 0.3))
