"""Terminal costs: the factor of the Hessian against `jax.hessian`, for every noise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import ExactFactors
from diffctl.operators import (
    Categorical,
    DenseMatrix,
    GaussianNoise,
    IndependentNoise,
    PoissonNoise,
    Problem,
    stack,
)
from diffctl.solvers import likelihood, residual_norm
from tests.tolerances import EXACT64

SIZE, NUM_MEASURED = 4, 3
RNG = np.random.default_rng(5)
REAL = RNG.normal(size=(NUM_MEASURED, SIZE)) / 3
COMPLEX = REAL + 1j * RNG.normal(size=(NUM_MEASURED, SIZE)) / 3
X = RNG.uniform(-0.5, 0.5, size=SIZE)
Y = RNG.uniform(-0.5, 0.5, size=NUM_MEASURED)


def _dense(matrix):
    return DenseMatrix.from_array(jnp.asarray(matrix))


def _problems():
    real, complex_ = _dense(REAL), _dense(COMPLEX)
    gaussian, poisson = GaussianNoise(std=0.3), PoissonNoise(peak=50.0)
    return {
        "gaussian": Problem(y=jnp.asarray(Y), operator=real, noise=gaussian),
        "poisson": Problem(y=jnp.asarray(Y), operator=real, noise=poisson),
        "categorical": Problem(
            y=jnp.int32(1), operator=_dense(10 * REAL), noise=Categorical()
        ),
        "complex": Problem(y=jnp.asarray(Y * 1j), operator=complex_, noise=gaussian),
        "independent": Problem(
            y=(jnp.asarray(Y), jnp.asarray(Y + 0.1j)),
            operator=stack(real, complex_),
            noise=IndependentNoise(parts=(poisson, gaussian)),
        ),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["gaussian", "poisson", "categorical", "complex", "independent"]
)
def test_likelihood_root_and_factors_are_the_hessian(name):
    problem = _problems()[name]

    @jax.jit
    def evaluate(problem, x):
        cost = likelihood(problem)
        z = cost.vector(x)
        basis = jnp.eye(z.size)
        root = jax.vmap(lambda w: cost.loss.hessian_root(z, w), out_axes=1)(basis)
        # Linear operators: the Gauss-Newton Hessian is the Hessian.
        rows = ExactFactors()(cost, x, jax.random.key(0))
        found = (cost(x), root @ root.T, rows.T @ rows)
        return found, (
            problem.misfit(x),
            jax.hessian(cost.loss)(z),
            jax.hessian(cost)(x),
        )

    found, expected = evaluate(problem, jnp.asarray(X))
    assert found[1].shape[0] == problem.operator.num_observed()
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_residual_norm_and_its_gradient_at_zero():
    problem = _problems()["complex"]
    cost = residual_norm(problem)
    residual = np.linalg.norm(COMPLEX @ X - 1j * Y)
    np.testing.assert_allclose(cost(jnp.asarray(X)), residual, **EXACT64)
    exact = Problem(
        y=problem.operator(jnp.asarray(X)),
        operator=problem.operator,
        noise=problem.noise,
    )
    gradient = jax.grad(residual_norm(exact))(jnp.asarray(X))
    chex.assert_trees_all_equal(gradient, jnp.zeros(SIZE))
