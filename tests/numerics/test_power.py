"""Power iteration against dense eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import randomized_svd
from diffctl.numerics.power import largest_eigenvalue, squared_operator_norm
from tests.tolerances import EXACT64

KEY = jax.random.key(2)


@pytest.mark.usefixtures("x64")
def test_the_estimate_rises_to_the_largest_eigenvalue():
    root = np.random.default_rng(1).normal(size=(5, 3))
    matrix = jnp.asarray(root @ root.T)
    largest = np.linalg.eigvalsh(matrix)[-1]

    def estimate(num_steps):
        return largest_eigenvalue(
            KEY, lambda v: matrix @ v, jnp.zeros(5), num_steps=num_steps
        )

    few, many = estimate(3), estimate(200)
    assert 0.5 * largest < few < largest * (1 + 1e-12)
    np.testing.assert_allclose(many, largest, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_projectors_need_two_steps_and_zero_has_no_curvature():
    keep = jnp.asarray([1.0, 0.0, 1.0, 0.0])
    found = [
        largest_eigenvalue(KEY, lambda v, f=f: f * keep * v, keep, num_steps=2)
        for f in (3.0, 0.0)
    ]
    np.testing.assert_allclose(found, [3.0, 0.0], **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_norm_of_an_operator_is_that_of_its_matrix():
    matrix = jnp.asarray(np.random.default_rng(3).normal(size=(30, 40)))
    found = squared_operator_norm(KEY, lambda v: matrix.T @ (matrix @ v), matrix[0])
    exact = np.linalg.norm(matrix, 2) ** 2
    assert exact * (1 - 1e-3) < found < exact * (1 + 1e-12)
    assert squared_operator_norm(KEY, lambda v: 0 * v, matrix[0]) == 1


@pytest.mark.parametrize("unit", [1e-25, 1e-10, 3e19, 1e30])
def test_no_unit_is_too_small_or_too_large(unit):
    root = np.random.default_rng(4).normal(size=(8, 5))
    matrix = jnp.asarray(unit * (root @ root.T), jnp.float32)
    largest = np.linalg.eigvalsh(np.asarray(matrix, float))[-1]

    def product(v):
        return jnp.matmul(matrix, v, precision="highest")

    rough = largest_eigenvalue(KEY, product, matrix[0], num_steps=60)
    np.testing.assert_allclose(rough / largest, 1, rtol=1e-3)
    norm = squared_operator_norm(KEY, product, matrix[0])
    np.testing.assert_allclose(norm / largest, 1, rtol=1e-3)
    found = randomized_svd(product, matrix[0], KEY, rank=2).singular_values
    exact = np.linalg.svd(np.asarray(matrix, float), compute_uv=False)[:2]
    np.testing.assert_allclose(found / exact, 1, rtol=1e-3)
