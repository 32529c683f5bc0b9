"""Derived adjoints: the dot test, dtypes, and clear errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import adjoint_of, linear_adjoint
from tests.tolerances import EXACT64

SHAPE = (4, 3)


def _measure(x):
    """A linear map of a real signal to a complex and a real part."""
    return {"fourier": 1j * jnp.fft.fft2(x)[:2], "sums": jnp.sum(x, axis=0)}


@pytest.mark.usefixtures("x64")
def test_dot_test_for_complex_measurements():
    draw = np.random.default_rng(0).normal
    x = draw(size=SHAPE)
    y = {"fourier": draw(size=(2, 3)) + 1j * draw(size=(2, 3)), "sums": draw(size=3)}

    @jax.jit
    def both_sides(x, y):
        back = linear_adjoint(_measure, SHAPE, y)
        products = jax.tree.map(lambda u, v: jnp.vdot(u, v).real, _measure(x), y)
        return jax.tree.reduce(jnp.add, products), jnp.vdot(x, back)

    left, right = both_sides(x, y)
    assert right.dtype == jnp.float64
    chex.assert_trees_all_close(left, right, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_complex_linear_map_gives_the_conjugate_transpose():
    draw = np.random.default_rng(1).normal
    matrix = draw(size=(3, 4)) + 1j * draw(size=(3, 4))
    spec = jax.ShapeDtypeStruct((4,), matrix.dtype)
    y = np.array([1.0, 2j, -1.0])
    found = jax.jit(adjoint_of(lambda x: matrix @ x, spec))(y)
    chex.assert_trees_all_close(found, matrix.conj().T @ y, **EXACT64)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, "float32"), (jnp.bfloat16, "bfloat16"), (np.int32, "float32")],
)
def test_precision_follows_the_measurement_and_numpy_is_welcome(dtype, expected):
    assert linear_adjoint(lambda x: x, (2,), np.ones(2, dtype)).dtype == expected


@pytest.mark.parametrize("y", [np.ones(5), (np.ones(2),)])
def test_a_measurement_that_does_not_fit_is_refused(y):
    with pytest.raises(ValueError, match="adjoint got"):
        linear_adjoint(lambda x: x[:2], (4,), y)
