"""Guarded functions: right away from zero, finite gradients at zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import safe_divide, safe_norm, safe_sqrt, squared_norm
from tests.tolerances import EXACT64


@pytest.mark.usefixtures("x64")
def test_norm_of_a_pytree_and_its_gradient():
    tree = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0j]])}
    assert squared_norm(tree["b"]) == 16
    chex.assert_trees_all_close(jax.jit(safe_norm)(tree), 5.0, **EXACT64)

    x = np.array([[1.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    both = jax.jit(jax.vmap(jax.value_and_grad(safe_norm)))
    chex.assert_trees_all_close(both(x), (np.array([3.0, 0.0]), x / 3), **EXACT64)
    chex.assert_tree_all_finite(jax.jit(jax.hessian(safe_norm))(x[1]))


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
