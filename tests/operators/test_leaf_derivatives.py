"""Derivatives of spectral operators in their own arrays, in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl import operators as ops
from tests.operators.cases import SHAPE, SPECTRAL, build
from tests.tolerances import FD64

STEP, DAMPING = 1e-4, 0.3
# All singular values equal, or zero, or some; one of each class besides.
DEGENERATE = {
    "blur-delta": lambda: ops.CircularBlur.create(SHAPE, jnp.ones((1, 1))),
    "blur-zero": lambda: ops.CircularBlur.create(SHAPE, jnp.zeros((3, 3))),
    "fourier-empty": lambda: ops.SubsampledFourier.from_array(
        jnp.zeros(SHAPE[:2]), SHAPE
    ),
    "mask-empty": lambda: ops.Mask.from_array(jnp.zeros(SHAPE), SHAPE),
    "separable-repeated": lambda: ops.Separable.from_matrices(
        (3, 3, 1), np.eye(3), np.diag([1.0, 1, 0])
    ),
    "dense-repeated": lambda: ops.DenseMatrix.from_array(jnp.eye(4)[:3]),
    "dense-zero": lambda: ops.DenseMatrix.from_array(jnp.zeros((2, 3))),
}
NAMES = (
    *("identity", "mask-random", "block-average", "bicubic-1.5", "separable-blur"),
    *("circular-blur-singular", "truncated", "truncated-complex"),
    *("dense-tall-rank-deficient", "dense-complex", "fourier", "fourier-complex"),
)
CASES = {name: partial(build, name) for name in NAMES} | DEGENERATE


def _without_remainder(operator):
    """Return the operator without the array whose value has no meaning."""
    if isinstance(operator, ops.DenseMatrix):
        return dataclasses.replace(operator, remainder=None)
    if isinstance(operator, ops.Truncated):
        inner = _without_remainder(operator.operator)
        return dataclasses.replace(operator, operator=inner)
    return operator


def _drawn(rng, leaf):
    drawn = rng.normal(size=leaf.shape)
    if jnp.iscomplexobj(leaf):
        drawn = drawn + 1j * rng.normal(size=leaf.shape)
    return jnp.asarray(drawn, leaf.dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_in_every_array_and_the_damping(name):
    """JVPs against differences of fourth order; zeros stay zeros only for A^+."""
    leaves, structure = jax.tree.flatten(_without_remainder(CASES[name]()))
    rng = np.random.default_rng(6)
    changes = [_drawn(rng, leaf) for leaf in leaves]
    x = jnp.asarray(rng.normal(size=structure.unflatten(leaves).shape))
    y = _drawn(rng, structure.unflatten(leaves)(x))

    def smooth(t):
        moved = [a + t * b for a, b in zip(leaves, changes, strict=True)]
        operator = structure.unflatten(moved)
        damped = operator.damped_pinv(y, DAMPING * (1 + t))
        return operator(x), operator.adjoint(y), damped

    def scaled(t):
        moved = [a * (1 + t * b.real) for a, b in zip(leaves, changes, strict=True)]
        return structure.unflatten(moved).pinv(y)

    # The zeros of this transfer function are none of another kernel's.
    functions = [smooth] if name == "circular-blur-singular" else [smooth, scaled]
    _check_slope(functions)


def _check_slope(functions):
    @jax.jit
    def value(t):
        return [function(t) for function in functions]

    ends = [value(k * STEP) for k in (2.0, 1.0, -1.0, -2.0)]
    found = jax.jit(lambda t: jax.jvp(value, (t,), (1.0,))[1])(0.0)
    expected = jax.tree.map(
        lambda a, b, c, d: (8 * (b - c) - (a - d)) / (12 * STEP), *ends
    )
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, **FD64)


@pytest.mark.usefixtures("x64")
def test_no_class_is_left_out():
    every = {type(build(name)) for name in SPECTRAL}
    assert every == {type(build(name)) for name in NAMES}
