"""Functions, classifiers and combinations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffctl import operators as ops
from diffctl.pytree import pytree_dataclass
from tests.tolerances import EXACT32, EXACT64, FD64

SHAPE = (4, 4, 1)
KEY = jax.random.key(5)


def saturate(x: jax.Array, gain: jax.Array) -> jax.Array:
    return jnp.tanh(gain * x)


def affine(x: jax.Array) -> jax.Array:
    return x + 1


def test_function_operator_differentiates_through_its_arguments(x64):
    operator = ops.FunctionOperator.create(saturate, SHAPE, 1.5)
    x, v = jax.random.normal(KEY, (2, *SHAPE))
    _, found = jax.jvp(operator, (x,), (v,))
    step = 1e-5
    difference = (operator(x + step * v) - operator(x - step * v)) / (2 * step)
    chex.assert_trees_all_close(found, difference, **FD64)
    doubled = jax.tree.map(lambda gain: 2 * gain, operator)
    chex.assert_trees_all_close(doubled(x), jnp.tanh(3.0 * x), **EXACT64)


@pytree_dataclass
class Linear:
    weight: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.weight @ x.ravel()


def test_classifier_returns_the_logits_of_its_network():
    network = Linear(weight=jax.random.normal(KEY, (3, 16)))
    operator = ops.Classifier.create(network, SHAPE)
    problem = ops.Problem(y=jnp.asarray(2), operator=operator, noise=ops.Categorical())
    x = jnp.linspace(-1, 1, 16).reshape(SHAPE)
    run = jax.jit(lambda problem, x: jax.value_and_grad(problem.misfit)(x))
    misfit, gradient = run(problem, x)
    probabilities = special.softmax(np.asarray(network(x)))
    chex.assert_trees_all_close(misfit, -np.log(probabilities[2]), **EXACT32)
    expected = (probabilities - np.eye(3)[2]) @ np.asarray(network.weight)
    chex.assert_trees_all_close(gradient.ravel(), expected, **EXACT32)
    ops.validate_problem(problem, SHAPE)


def test_composition_applies_the_inner_first_and_keeps_linearity(x64):
    inner = ops.BlockAverage.create(SHAPE, 2)
    outer = ops.Mask.half((2, 2, 1))
    x = jax.random.normal(KEY, SHAPE)
    both = outer @ inner
    assert isinstance(both, ops.LinearComposition) and both.shape == SHAPE
    chex.assert_trees_all_close(both(x), outer(inner(x)), **EXACT64)
    curved = ops.FunctionOperator.create(saturate, (2, 2, 1), 2.0) @ inner
    assert not isinstance(curved, ops.LinearOperator)
    chex.assert_trees_all_close(curved(x), jnp.tanh(2 * inner(x)), **EXACT64)
    assert both.num_observed() == 2
    noisy = ops.simulate(KEY, both, ops.GaussianNoise(std=1.0), x)
    assert np.all(np.asarray(noisy)[:, 1] == 0) and np.all(np.asarray(noisy)[:, 0] != 0)


def test_stack_returns_a_tuple_and_counts_all_parts():
    mask = jnp.eye(4)
    parts = (ops.SubsampledFourier.from_array(mask, SHAPE), ops.Mask.half(SHAPE))
    stacked = ops.stack(*parts)
    x = jax.random.normal(KEY, SHAPE)
    assert isinstance(stacked, ops.LinearStack)
    chex.assert_trees_all_equal(stacked(x), (parts[0](x), parts[1](x)))
    assert stacked.num_observed() == 2 * 4 + 8
    curved = ops.FunctionOperator.create(saturate, SHAPE, 1.0)
    assert not isinstance(ops.stack(curved, *parts), ops.LinearOperator)
    assert curved.num_observed() == 16
    noisy = ops.simulate(KEY, stacked, ops.GaussianNoise(std=1.0), x)
    assert np.all(np.asarray(noisy[0])[mask == 0] == 0)
    assert np.all(np.asarray(noisy[1])[:, 2:] == 0)


@pytest.mark.parametrize(
    "function",
    [jnp.sin, jnp.square, jnp.abs, jax.nn.relu, affine],
    ids=lambda f: f.__name__,
)
def test_a_function_that_is_not_linear_has_no_adjoint(function):
    with pytest.raises(ValueError, match="Use FunctionOperator"):
        ops.LinearFunctionOperator.create(function, SHAPE)


BAD = {
    "batch axis": (lambda: ops.Mask.half((2, 4, 4, 1)), "without a batch axis"),
    "mask shape": (
        lambda: ops.Mask.from_array(jnp.ones((3, 4)), SHAPE),
        r"\(3, 4\); expected \(4, 4, 1\)",
    ),
    "mask values": (
        lambda: ops.Mask.from_array(jnp.full(SHAPE, 0.5), SHAPE),
        "other than 0 and 1",
    ),
    "box": (
        lambda: ops.Mask.from_bbox(SHAPE, top=3, left=0, size=2),
        "2x2 pixels at top=3, left=0",
    ),
    "box margin": (
        lambda: ops.Mask.random_bbox(KEY, SHAPE, size=3, margin=1),
        "size=3 with margin=1",
    ),
    "percent": (
        lambda: ops.Mask.random(KEY, SHAPE, drop_fraction=92),
        "0.92, not 92",
    ),
    "block": (lambda: ops.BlockAverage.create(SHAPE, 3), "does not divide"),
    "block fraction": (lambda: ops.BlockAverage.create(SHAPE, 1.5), "an integer >= 1"),
    "bicubic": (lambda: ops.BicubicSuperResolution.create(SHAPE, 0.25), "4, not 1/4"),
    "kernel axes": (
        lambda: ops.Blur.create(SHAPE, jnp.ones((3,))),
        r"\(height, width\)",
    ),
    "kernel dtype": (
        lambda: ops.CircularBlur.create(SHAPE, jnp.ones((3, 3), int)),
        "floating-point",
    ),
    "taps": (
        lambda: ops.SeparableBlur.create(SHAPE, jnp.ones((3, 3)), jnp.ones(3)),
        "one axis each",
    ),
    "matrices": (
        lambda: ops.Separable.from_matrices(SHAPE, np.eye(3), np.eye(4)),
        "one column per pixel",
    ),
    "kernel size": (lambda: ops.gaussian_kernel(0, 1.0), "positive number of pixels"),
    "kernel std": (lambda: ops.gaussian_kernel(3, 0.0), "positive standard deviation"),
    "dense axes": (lambda: ops.DenseMatrix.from_array(jnp.ones(3)), "two axes"),
    "dense columns": (
        lambda: ops.DenseMatrix.from_array(jnp.ones((2, 3)), SHAPE),
        "3 columns but a signal of shape",
    ),
    "fourier mask": (
        lambda: ops.SubsampledFourier.from_array(jnp.ones((3, 3)), SHAPE),
        "one entry per frequency",
    ),
    "fourier values": (
        lambda: ops.SubsampledFourier.from_array(jnp.full((4, 4), 2.0), SHAPE),
        "other than 0 and 1",
    ),
    "complex channels": (
        lambda: ops.SubsampledComplexFourier.from_array(jnp.ones((4, 4)), SHAPE),
        r"\(height, width, 2\)",
    ),
    "columns": (
        lambda: ops.column_mask(KEY, 4, 4, keep_fraction=0.1, center_fraction=0.5),
        "center_fraction <= keep_fraction",
    ),
    "function": (
        lambda: ops.FunctionOperator.create(saturate, SHAPE),
        "saturate does not accept a signal",
    ),
    "classifier": (
        lambda: ops.Classifier.create(jnp.tanh, SHAPE),
        r"expected \(num_classes,\)",
    ),
    "composition": (
        lambda: ops.Mask.half(SHAPE) @ ops.BlockAverage.create(SHAPE, 2),
        "BlockAverage returns shape",
    ),
    "stack": (
        lambda: ops.stack(ops.Identity(shape=(2,)), ops.Identity(shape=(3,))),
        "expected one shape",
    ),
    "empty stack": (lambda: ops.stack(), "at least one"),
    "unit range": (lambda: ops.GaussianNoise.from_unit_range(0.0), "positive number"),
}


@pytest.mark.parametrize("name", BAD)
def test_factories_name_the_value_and_the_cure(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def sampled_frequencies(x: jax.Array, gain: jax.Array) -> jax.Array:
    return gain * jnp.fft.fft2(x[..., 0])[:3]


@pytest.mark.parametrize("gain", [1e-25, 1e-12, 1e-5, 1e12])
def test_raw_frequencies_are_inverted_in_any_unit(gain):
    """Of a complex map without a singular system, as raw k-space has them."""
    function = sampled_frequencies
    operator = ops.LinearFunctionOperator.create(function, SHAPE, jnp.float32(gain))
    y = operator(jax.random.normal(KEY, SHAPE))
    unit = ops.LinearFunctionOperator.create(function, SHAPE, jnp.float32(1.0))
    expected = unit.pinv(unit(jax.random.normal(KEY, SHAPE)))
    chex.assert_trees_all_close(operator.pinv(y), expected, **EXACT32)
    again = operator(operator.pinv(y))
    assert jnp.max(jnp.abs(again - y)) < 1e-5 * jnp.max(jnp.abs(y))
    if gain**2 > 1e-30:
        damped = operator.damped_pinv(y, 0.1 * gain**2)
        expected = unit.damped_pinv(unit(jax.random.normal(KEY, SHAPE)), 0.1)
        chex.assert_trees_all_close(damped, expected, **EXACT32)


KERNEL = jnp.asarray(np.random.default_rng(5).uniform(0.1, 1, (3, 3)) / 5, jnp.float32)
MATRIX = np.random.default_rng(6).normal(size=(6, 9)).astype(np.float32)
IN_A_UNIT = {
    "dense": lambda c: ops.DenseMatrix.from_array(c * MATRIX),
    "dense-tall": lambda c: ops.DenseMatrix.from_array(c * MATRIX.T),
    "truncated": lambda c: ops.Truncated.create(
        ops.DenseMatrix.from_array(c * MATRIX), cutoff=0.5
    ),
    "separable": lambda c: ops.Separable.from_matrices(
        (9, 9, 1), c * MATRIX, MATRIX[:4]
    ),
    "circular-blur": lambda c: ops.CircularBlur.create(SHAPE, c * KERNEL),
    "blur": lambda c: ops.Blur.create(SHAPE, c * KERNEL),
}


@pytest.mark.parametrize("gain", [2.0**-80, 2.0**-60, 2.0**60])
@pytest.mark.parametrize("name", IN_A_UNIT)
def test_inverses_do_not_depend_on_the_unit(name, gain):
    unit, operator = IN_A_UNIT[name](1.0), IN_A_UNIT[name](np.float32(gain))
    y = unit(jax.random.normal(KEY, unit.shape))
    chex.assert_trees_all_close(operator.pinv(gain * y), unit.pinv(y), **EXACT32)
    if 0.1 * gain**2 > jnp.finfo(jnp.float32).tiny:  # else no damping of that size
        found = operator.damped_pinv(gain * y, 0.1 * gain**2)
        chex.assert_trees_all_close(found, unit.damped_pinv(y, 0.1), **EXACT32)
