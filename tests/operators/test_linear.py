"""What every linear operator must satisfy, as explicit matrices in float64."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl import operators
from diffctl.operators import LinearOperator, SpectralOperator, SubsampledFourier
from tests.operators.cases import KEY, LINEAR, SPECTRAL, build
from tests.operators.dense import as_real, matrices
from tests.tolerances import EXACT32, EXACT64, REORDER32

_CACHE: dict[str, dict[str, np.ndarray]] = {}


def _matrices(name: str) -> dict[str, np.ndarray]:
    if name not in _CACHE:
        _CACHE[name] = jax.tree.map(np.asarray, matrices(build(name)))
    return _CACHE[name]


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_is_the_transpose(name, x64):
    found = _matrices(name)
    assert np.abs(found["forward"]).max() > 0
    _close(found["adjoint"], found["forward"].T)


@pytest.mark.parametrize("name", LINEAR)
def test_jvp_is_the_operator(name, x64):
    found = _matrices(name)
    _close(found["tangent"], found["forward"])


@pytest.mark.parametrize("name", LINEAR)
def test_pinv_is_that_of_the_matrix(name, x64):
    found = _matrices(name)
    _close(found["pinv"], np.linalg.pinv(found["forward"], rcond=1e-10))


@pytest.mark.parametrize("name", LINEAR)
def test_penrose_equations(name, x64):
    found = _matrices(name)
    a, p = found["forward"], found["pinv"]
    _close(a @ p @ a, a)
    _close(p @ a @ p, p)
    _close((a @ p).T, a @ p)
    _close((p @ a).T, p @ a)


@pytest.mark.parametrize("name", SPECTRAL)
def test_singular_system(name, x64):
    found = _matrices(name)
    s, u, v = found["s"], found["u"], found["v"]
    assert np.all(s >= 0)
    _close(u @ np.diag(s) @ v.T, found["forward"])
    _close(found["u_adjoint"], u.T)
    _close(found["v_adjoint"], v.T)
    _close(v.T @ v, np.eye(s.size))
    used = u[:, s > 0]
    _close(used.T @ used, np.eye(used.shape[1]))
    exact = np.linalg.svd(found["forward"], compute_uv=False)
    size = min(exact.size, s.size)
    # The tails are zeros: s may hold more or fewer of them than the matrix has.
    _close(np.sort(s)[::-1][:size], exact[:size])
    assert np.all(np.sort(s)[::-1][size:] < 1e-12) and np.all(exact[size:] < 1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_dot_product_and_linearity_in_single_precision(name):
    operator = build(name)
    x1, x2 = jax.random.normal(KEY, (2, *operator.shape))

    @jax.jit
    def run(operator: LinearOperator, x1: jax.Array, x2: jax.Array):
        ys = jax.vmap(operator)(jnp.stack([x1, x2, 2 * x1 - 0.5 * x2]))
        y, other, combined = (
            jax.tree.map(lambda leaf, i=i: leaf[i], ys) for i in range(3)
        )
        z = jax.tree.map(lambda leaf: jnp.cos(leaf + 1), y)
        return *map(as_real, (y, other, combined, z)), operator.adjoint(z).ravel()

    y, other, combined, z, back = map(np.asarray, run(operator, x1, x2))
    assert all(a.dtype == np.float32 for a in (y, other, combined, back))
    gap = abs(y @ z - np.asarray(x1).ravel() @ back)
    assert gap < 1e-6 * np.linalg.norm(y) * np.linalg.norm(z)
    np.testing.assert_allclose(combined, 2 * y - 0.5 * other, **REORDER32)


@pytest.mark.parametrize("name", LINEAR)
def test_single_precision_is_kept_when_double_is_enabled(name, x64):
    # A float64 operator must not promote a float32 solver state.
    operator = build(name)

    def run(x: jax.Array):
        y = operator(x)
        return y, operator.normal(x), operator.pinv(y), _round_trips(operator, x, y)

    out = jax.eval_shape(run, jax.ShapeDtypeStruct(operator.shape, jnp.float32))
    for leaf in jax.tree.leaves(out):
        assert leaf.dtype in (jnp.float32, jnp.complex64)


def _round_trips(operator, x, y):
    if not isinstance(operator, SpectralOperator):
        return ()
    return operator.v(operator.v_adjoint(x)), operator.u(operator.u_adjoint(y))


@pytest.mark.parametrize("name", ["mask-random", "circular-blur", "bicubic", "stack"])
def test_a_batch_of_operators_is_a_loop(name):
    operator = build(name)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), operator)
    xs = jax.random.normal(KEY, (2, *operator.shape))

    @jax.jit
    def run(pair, xs):
        looped = [
            one.normal(x)
            for one, x in (
                (jax.tree.map(lambda a, i=i: a[i], pair), xs[i]) for i in (0, 1)
            )
        ]
        return jax.vmap(lambda one, x: one.normal(x))(pair, xs), jnp.stack(looped)

    chex.assert_trees_all_close(*run(pair, xs), **REORDER32)


def test_every_concrete_operator_is_a_tree_of_arrays():
    # A subclass that is not registered again would be a single opaque leaf.
    for name in LINEAR:
        leaves = jax.tree.leaves(build(name))
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)


def test_fourier_of_mirrored_frequencies_has_singular_value_one():
    everything = SubsampledFourier.from_array(jnp.ones((4, 4)), (4, 4, 1))
    chex.assert_trees_all_close(everything.singular_values, jnp.ones(16), **EXACT32)


def test_every_linear_operator_has_a_row():
    """Of the exported classes that can be built, each or a subclass of it."""
    built = [build(name) for name in LINEAR]
    exported = [
        cls
        for cls in vars(operators).values()
        if inspect.isclass(cls)
        and issubclass(cls, LinearOperator)
        and not inspect.isabstract(cls)
    ]
    assert len(exported) > 10
    for cls in exported:
        assert any(isinstance(operator, cls) for operator in built), cls
