"""DDS against its scalar recursion, dense algebra and its Krylov space."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import (
    GaussianNoise,
    LinearFunctionOperator,
    Problem,
)
from diffctl.solvers import DDS, BayesianPenalty, ConstantPenalty, solve
from diffctl.solvers.ddnm import released_grid
from tests.solvers.bed import NOISE_STD, NUM_MEASURED, SIZE, bed, grid
from tests.solvers.clean_space.scalars import (
    WEAK,
    correction_moments,
    reverse_process,
)
from tests.tolerances import EXACT64

KEY = jax.random.key(7)
X0_HAT = np.linspace(-0.8, 1.1, SIZE)


def _correct(problem, **fields):
    now = jax.tree.map(lambda leaf: leaf[1], grid().pairs()[0])
    arguments = (KEY, problem, jnp.asarray(X0_HAT), now)
    return np.asarray(_compiled(DDS(grid=grid(), **fields), *arguments))


@jax.jit
def _compiled(solver, *arguments):
    return solver.correct(*arguments)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("gamma", "eta", "mean", "variance"),
    [
        (1.0, 0.85, 1.613298, 4.3486e-3),
        (1.0, 0.0, 1.807598, 1.6615e-4),
        (1.0, 0.15, 1.794228, 3.9335e-4),
        (4.0, 0.85, 1.711153, 9.2568e-5),
    ],
)
def test_scalar_recursion_of_the_paper(gamma, eta, mean, variance):
    """It follows the data, y / gain = 1.714, far from the posterior, 0.765."""
    solver = DDS.released_code()
    penalty = ConstantPenalty(value=1 / gamma)
    solver = dataclasses.replace(solver, penalty=penalty, eta=eta)
    found = correction_moments(solver, WEAK)
    np.testing.assert_allclose(found[0], mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=2e-5)


@pytest.mark.usefixtures("x64")
def test_the_default_reaches_the_mean_of_the_posterior():
    penalty = BayesianPenalty(signal_std=math.sqrt(WEAK.variance))
    solver = DDS(grid=released_grid(50), penalty=penalty, eta=1.0)
    mean, variance = correction_moments(solver, WEAK)
    np.testing.assert_allclose(mean, WEAK.posterior()[0], **EXACT64)
    np.testing.assert_allclose(variance, 0.0710597, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("penalty", [BayesianPenalty(), ConstantPenalty(value=0.5)])
def test_as_many_steps_as_eigenvalues_solve_exactly(penalty):
    law = bed()
    sigma = float(grid().sigma[1])
    ratio = (
        NOISE_STD**2 * (1 / sigma**2 + 4)
        if penalty.__class__ is BayesianPenalty
        else 0.5
    )
    normal = law.matrix.T @ law.matrix + ratio * np.eye(SIZE)
    expected = np.linalg.solve(normal, law.matrix.T @ law.y + ratio * X0_HAT)
    found = _correct(law.problem(), penalty=penalty, num_inner=NUM_MEASURED + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    early = _correct(law.problem(), penalty=penalty, num_inner=NUM_MEASURED - 1)
    assert np.max(np.abs(early - expected)) > 1e-3


@pytest.mark.usefixtures("x64")
def test_one_step_is_steepest_descent_with_exact_line_search():
    law, gamma = bed(), 2.5
    normal = np.eye(SIZE) + gamma * law.matrix.T @ law.matrix
    direction = gamma * law.matrix.T @ (law.y - law.matrix @ X0_HAT)
    size = direction @ direction / (direction @ normal @ direction)
    found = _correct(
        law.problem(), penalty=ConstantPenalty(value=1 / gamma), num_inner=1
    )
    np.testing.assert_allclose(found, X0_HAT + size * direction, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_inner", [1, 2])
def test_the_change_lies_in_the_krylov_space(num_inner):
    law = bed()
    gram = law.matrix.T @ law.matrix
    first = law.matrix.T @ (law.y - law.matrix @ X0_HAT)
    krylov = np.stack(
        [np.linalg.matrix_power(gram, k) @ first for k in range(num_inner)]
    )
    change = _correct(law.problem(), num_inner=num_inner) - X0_HAT
    inside = krylov.T @ np.linalg.lstsq(krylov.T, change, rcond=None)[0]
    np.testing.assert_allclose(change, inside, rtol=0, atol=1e-10)
    null = np.linalg.svd(law.matrix)[2][-1]
    np.testing.assert_allclose(null @ change, 0, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_without_penalty_many_steps_project():
    law = bed()
    found = _correct(law.problem(), penalty=ConstantPenalty(value=0.0), num_inner=12)
    projected = X0_HAT + np.linalg.pinv(law.matrix) @ (law.y - law.matrix @ X0_HAT)
    np.testing.assert_allclose(found, projected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_complex_measurements_are_solved_too():
    rng = np.random.default_rng(3)
    matrix, noise = (rng.normal(size=(SIZE, SIZE + 1)) for _ in range(2))
    matrix = matrix[:, :SIZE] + 1j * noise[:, :SIZE]
    y = rng.normal(size=SIZE) + 1j * rng.normal(size=SIZE)
    operator = LinearFunctionOperator.create(_product, (SIZE,), jnp.asarray(matrix))
    problem = Problem(y=jnp.asarray(y), operator=operator, noise=GaussianNoise(std=0.1))
    normal = np.real(matrix.conj().T @ matrix) + 0.3 * np.eye(SIZE)
    pull = np.real(matrix.conj().T @ y) + 0.3 * X0_HAT
    found = _correct(problem, penalty=ConstantPenalty(value=0.3))
    np.testing.assert_allclose(found, np.linalg.solve(normal, pull), rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_step_keeps_the_noise_of_the_estimate():
    law, solver = bed(), DDS(grid=grid(), eta=0.6, num_inner=SIZE)
    now, next = jax.tree.map(lambda leaf: leaf[1], grid().pairs())
    x = np.linspace(-1, 2, SIZE)
    moved, trace = jax.jit(solver.step)(
        jnp.asarray(x), (now, next, KEY), law.problem(), law.prior()
    )
    sigma, after = float(now.sigma), float(next.sigma)
    x0_hat = law.denoise(x, sigma)
    ratio = NOISE_STD**2 * (1 / sigma**2 + 4)
    normal = law.matrix.T @ law.matrix + ratio * np.eye(SIZE)
    u = np.linalg.solve(normal, law.matrix.T @ law.y + ratio * x0_hat)
    z = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (SIZE,)))
    noise = 0.8 * (x - x0_hat) / sigma + 0.6 * z
    np.testing.assert_allclose(moved, u + after * noise, rtol=1e-8)
    residual = law.y - law.matrix @ u
    np.testing.assert_allclose(
        trace.misfit, residual @ residual / (2 * NOISE_STD**2), rtol=1e-8
    )


@pytest.mark.usefixtures("x64")
def test_limits_of_the_noise():
    """No data: the reverse process itself. Noise-free identity: y."""
    law = bed()
    square = law._replace(matrix=np.eye(SIZE), y=np.linspace(-0.5, 0.5, SIZE))
    solver = DDS(grid=grid(), num_inner=2)
    blind = dataclasses.replace(square.problem(), noise=GaussianNoise(std=1e8))
    x = reverse_process(law, KEY, solver.grid, share=0.85)
    found = solve(KEY, blind, law.prior(), solver).x
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-10)
    exact = dataclasses.replace(square.problem(), noise=GaussianNoise(std=1e-8))
    found = solve(KEY, exact, law.prior(), solver).x
    np.testing.assert_allclose(found, square.y, rtol=0, atol=1e-10)


def _product(x, matrix):
    return jnp.matmul(matrix, x, precision="highest")


@pytest.mark.usefixtures("x64")
def test_dependence_on_the_unit_of_the_measurement():
    """None by default; a constant penalty has the unit of A^2."""
    law = bed()

    def result(scale, **fields):
        matrix, y = jnp.asarray(scale * law.matrix), jnp.asarray(scale * law.y)
        operator = LinearFunctionOperator.create(_product, (SIZE,), matrix)
        noise = GaussianNoise(std=scale * NOISE_STD)
        problem = Problem(y=y, operator=operator, noise=noise)
        return _correct(problem, **fields)

    np.testing.assert_allclose(result(1.0), result(3.0), rtol=1e-8)
    constant = [
        result(scale, penalty=ConstantPenalty(value=value))
        for scale, value in ((1.0, 1.0), (3.0, 9.0), (3.0, 1.0))
    ]
    np.testing.assert_allclose(constant[0], constant[1], rtol=1e-8)
    assert np.max(np.abs(constant[0] - constant[2])) > 1e-3


def test_published_settings():
    released, noiseless = DDS.released_code(), DDS.noiseless()
    assert released.grid.time.tolist()[:2] == [980, 960]
    assert (released.eta, released.num_inner, released.penalty.value) == (0.85, 5, 1.0)
    assert noiseless.penalty.value == 0
