"""Guarded functions: right away from zero, finite gradients at zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import safe_divide, safe_norm, safe_sqrt, squared_norm
from diffctl.numerics.safe import binary_scale, root_of_difference
from tests.tolerances import EXACT32, EXACT64


@pytest.mark.usefixtures("x64")
def test_norm_of_a_pytree_and_its_gradient():
    tree = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0j]])}
    assert squared_norm(tree["b"]) == 16
    chex.assert_trees_all_close(jax.jit(safe_norm)(tree), 5.0, **EXACT64)

    x = np.array([[1.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    both = jax.jit(jax.vmap(jax.value_and_grad(safe_norm)))
    chex.assert_trees_all_close(both(x), (np.array([3.0, 0.0]), x / 3), **EXACT64)
    chex.assert_tree_all_finite(jax.jit(jax.hessian(safe_norm))(x[1]))


def test_root_of_a_difference_is_as_precise_as_its_arguments():
    """Also where they are close, and 0 where they are equal, jit or not."""
    a = np.array([1.0, 1.0, 0.3, 7.0, 1.0], np.float32)
    b = np.array([1 - 2.0**-20, 1 - 1e-3, 0.3, 7.5, 0.0], np.float32)
    wide = np.maximum(np.subtract(a, b, dtype=float) * np.add(a, b, dtype=float), 0)
    for root in (root_of_difference, jax.jit(root_of_difference)):
        np.testing.assert_allclose(root(a, b), np.sqrt(wide), rtol=3e-7)
    slopes = jax.vmap(jax.grad(root_of_difference, argnums=(0, 1)))(a, b)
    chex.assert_tree_all_finite(slopes)


def test_sqrt_and_divide():
    x = np.array([-1.0, 0.0, 4.0], np.float32)
    found = jax.vmap(jax.value_and_grad(safe_sqrt))(x)
    expected = (np.array([0.0, 0.0, 2.0]), np.array([0.0, 0.0, 0.25]))
    chex.assert_trees_all_equal(found, expected)

    def quotient(numerator, denominator):
        return safe_divide(numerator, denominator, otherwise=7.0)

    found = jax.vmap(jax.value_and_grad(quotient, (0, 1)))(jnp.ones(2), x[1:] / 2)
    expected = (np.array([7.0, 0.5]), (np.array([0.0, 0.5]), np.array([0.0, -0.25])))
    chex.assert_trees_all_equal(found, expected)
    assert safe_divide(np.ones(1, jnp.bfloat16), 2.0).dtype == jnp.bfloat16


@pytest.mark.parametrize("unit", [1e-25, 1e-12, 1.0, 1e25])
def test_norms_and_their_derivatives_do_not_depend_on_the_unit(unit):
    """Also of a loss that is tiny, in a batch with a zero, and for complex pytrees."""
    x = np.array([[1.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    scaled = jnp.asarray(unit * x, jnp.float32)
    norms = jax.jit(jax.vmap(safe_norm))(scaled) / unit
    chex.assert_trees_all_close(norms, jnp.asarray([3.0, 0.0]), **EXACT32)

    def tiny(x):
        return 1e-17 * safe_norm(x)

    gradients = 1e17 * jax.vmap(jax.grad(tiny))(scaled)
    chex.assert_trees_all_close(gradients, jnp.asarray(x / 3, jnp.float32), **EXACT32)
    curved, flat = unit * jax.jit(jax.vmap(jax.hessian(safe_norm)))(scaled)
    direction = x[0] / 3
    expected = (np.eye(3) - np.outer(direction, direction)) / 3
    np.testing.assert_allclose(curved, expected, **EXACT32)
    np.testing.assert_array_equal(flat, np.zeros((3, 3)))

    pair = {"a": jnp.asarray([3 * unit], jnp.float32), "b": jnp.asarray(4j * unit)}
    value, gradient = jax.value_and_grad(safe_norm)(pair)
    np.testing.assert_allclose(value / unit, 5.0, **EXACT32)
    expected = {"a": jnp.asarray([0.6]), "b": jnp.asarray(-0.8j)}  # JAX conjugates
    chex.assert_trees_all_close(gradient, expected, **EXACT32)


def test_the_scale_is_the_power_of_two_below_the_largest_entry():
    tree = {"a": jnp.asarray([0.3, -3.9]), "b": jnp.asarray([1 - 2j])}
    assert binary_scale(tree) == 2
    for value in (0.0, jnp.nan, jnp.inf):
        assert binary_scale(jnp.asarray([value, 0.0])) == 1
    assert binary_scale(jnp.zeros((0,))) == 1
    largest = jnp.asarray([jnp.finfo(jnp.float32).max])
    assert jnp.isfinite(safe_norm(largest))
    assert 1 / binary_scale(largest) >= jnp.finfo(jnp.float32).tiny


@pytest.mark.parametrize("function", [safe_norm, safe_sqrt])
def test_what_is_unknown_is_not_zero(function):
    assert jnp.isnan(function(jnp.asarray(jnp.nan)))
    assert jnp.isinf(function(jnp.asarray(jnp.inf)))


def test_norms_of_trees_with_integers_are_differentiable():
    found = jax.grad(lambda x: safe_norm((x, jnp.arange(2))))(jnp.ones(2))
    np.testing.assert_allclose(found, np.full(2, 1 / np.sqrt(3)), **EXACT32)
