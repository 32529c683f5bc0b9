"""DiffPIR against its scalar recursion, normal equations and limits."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import clip, unbounded
from diffctl.operators import (
    BlockAverage,
    CircularBlur,
    GaussianNoise,
    LinearFunctionOperator,
    Mask,
    Problem,
    gaussian_kernel,
)
from diffctl.solvers import (
    BackProjection,
    BayesianPenalty,
    DiffPIR,
    FirstOrderDiffPIR,
    NoCurvature,
    NoisyState,
    quadratic_grid,
    solve,
)
from diffctl.solvers.clean_space.diffpir import Proximal
from tests.solvers.bed import NOISE_STD, SIZE, bed, grid
from tests.solvers.clean_space.scalars import (
    WEAK,
    correction_moments,
    reverse_process,
)
from tests.tolerances import EXACT64

KEY = jax.random.key(6)


def _paper(strength, zeta):
    return DiffPIR(
        grid=quadratic_grid(100),
        penalty=BayesianPenalty(strength=strength, signal_std=math.inf),
        zeta=zeta,
        bound=unbounded,
        ending=NoisyState(),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("strength", "zeta", "mean", "variance"),
    [
        (1.0, 0.0, 1.172788, 0.120901),
        (1.0, 0.3, 0.906385, 0.134146),
        (1.0, 1.0, 0.811027, 0.075933),
        (4.0, 0.3, 0.548165, 0.188073),
        (7.0, 0.3, 0.458158, 0.200366),
        (8.0, 1.0, 0.397016, 0.109981),
    ],
)
def test_scalar_recursion_of_the_paper(strength, zeta, mean, variance):
    solver = _paper(strength, zeta)
    found = correction_moments(solver, WEAK)
    np.testing.assert_allclose(found, (mean, variance), rtol=0, atol=6e-7)


@pytest.mark.usefixtures("x64")
def test_the_default_reaches_the_mean_of_the_posterior():
    """With r^2 the variance of an isotropic prior; the paper's r = sigma does not."""
    exact_mean, exact_variance = WEAK.posterior()
    penalty = BayesianPenalty(signal_std=math.sqrt(WEAK.variance))
    solver = DiffPIR(grid=quadratic_grid(100), penalty=penalty, bound=unbounded)
    mean, variance = correction_moments(solver, WEAK)
    # The start at a finite level is forgotten but for 6e-9 (measured).
    np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(variance, 0.146815, rtol=0, atol=1e-6)
    assert variance < exact_variance


@pytest.mark.usefixtures("x64")
def test_a_step_uses_its_noise_and_bound():
    law, solver = bed(), DiffPIR(grid=grid(), zeta=0.4)
    now, next = jax.tree.map(lambda leaf: leaf[1], grid().pairs())
    x = 6 * np.linspace(-1, 2, SIZE)
    moved, trace = jax.jit(solver.step)(
        jnp.asarray(x), (now, next, KEY), law.problem(), law.prior()
    )
    sigma, after = float(now.sigma), float(next.sigma)
    x0_hat = np.clip(law.denoise(x, sigma), -1, 1)
    assert np.any(np.abs(x0_hat) == 1)
    variance = 1 / (1 / sigma**2 + 1 / 0.5**2)
    ratio = NOISE_STD**2 / variance
    normal = law.matrix.T @ law.matrix + ratio * np.eye(SIZE)
    u = np.linalg.solve(normal, law.matrix.T @ law.y + ratio * x0_hat)
    z = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (SIZE,)))
    kept = np.sqrt(0.6) * (x - u) / sigma
    np.testing.assert_allclose(moved, u + after * (kept + np.sqrt(0.4) * z), **EXACT64)
    residual = law.y - law.matrix @ u
    np.testing.assert_allclose(
        trace.misfit, residual @ residual / (2 * NOISE_STD**2), **EXACT64
    )


def _row_sums(x, scale):
    return scale * jnp.sum(x, axis=0)


OPERATORS = {
    "mask": lambda: Mask.from_bbox((4, 4, 1), top=1, left=1, size=2),
    "blur": lambda: CircularBlur.create((4, 4, 1), gaussian_kernel(3, 0.8)),
    "super_resolution": lambda: BlockAverage.create((4, 4, 1), 2),
    "no_singular_system": lambda: LinearFunctionOperator.create(
        _row_sums, (4, 4, 1), jnp.asarray(0.7)
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPERATORS)
def test_the_correction_solves_its_normal_equations(name):
    operator = OPERATORS[name]()
    keys = jax.random.split(KEY)
    x0_hat = jax.random.normal(keys[0], operator.shape)
    clean = jax.eval_shape(operator, x0_hat)
    y = operator.restrict(jax.random.normal(keys[1], clean.shape))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=0.1))

    @jax.jit
    def gradient(penalty):
        u = Proximal()(problem, x0_hat, penalty)
        return operator.adjoint(operator(u) - y) + penalty * (u - x0_hat)

    for penalty in (1e-3, 0.5, 20.0):
        np.testing.assert_allclose(gradient(penalty), 0, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_limits_of_the_penalty():
    """Infinite: the reverse process itself. None: A^-1 y."""
    law = bed()._replace(matrix=np.eye(SIZE) + 0.2, y=np.linspace(-0.5, 0.5, SIZE))
    free = DiffPIR(
        grid=grid(), penalty=BayesianPenalty(strength=1e14), bound=unbounded, zeta=0.36
    )
    x = reverse_process(law, KEY, free.grid, share=0.6)
    found = solve(KEY, law.problem(), law.prior(), free).x
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-9)
    forced = dataclasses.replace(free, penalty=BayesianPenalty(strength=1e-14))
    found = solve(KEY, law.problem(), law.prior(), forced).x
    expected = np.linalg.solve(law.matrix, law.y)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_fresh_noise_alone_forgets_the_state():
    solver = DiffPIR(grid=grid(), zeta=1.0)
    levels = jax.tree.map(lambda leaf: leaf[1], grid().pairs())
    u, z = jnp.linspace(-1, 1, SIZE), jnp.ones(SIZE)
    for x in (jnp.zeros(SIZE), 5 * z):
        moved = solver.renoise(x, x, u, levels, z)
        np.testing.assert_allclose(moved, u + levels[1].sigma * z, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_unit_of_the_measurement_does_not_matter():
    law = bed()
    scaled = dataclasses.replace(
        law._replace(matrix=3 * law.matrix, y=3 * law.y).problem(),
        noise=GaussianNoise(std=3 * NOISE_STD),
    )
    pair = [
        solve(KEY, p, law.prior(), FirstOrderDiffPIR(grid=grid())).x
        for p in (law.problem(), scaled)
    ]
    np.testing.assert_allclose(*pair, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_first_order_step_is_the_proximal_one_for_a_mask():
    operator = OPERATORS["mask"]()
    y = operator.restrict(jax.random.normal(KEY, operator.shape))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=0.1))
    x0_hat = jnp.full(operator.shape, 0.2)
    now = jax.tree.map(lambda leaf: leaf[0], grid().pairs()[0])
    u, expected = (
        jax.jit(kind(grid=grid()).correct)(KEY, problem, x0_hat, now)
        for kind in (FirstOrderDiffPIR, DiffPIR)
    )
    np.testing.assert_allclose(u, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_a_first_order_step_descends_where_the_published_one_diverges():
    law = bed()
    problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=1e-3))
    x0_hat = jnp.linspace(-1, 1, SIZE)
    now = jax.tree.map(lambda leaf: leaf[0], grid().pairs()[0])
    solver = FirstOrderDiffPIR(grid=grid())
    u = np.asarray(jax.jit(solver.correct)(KEY, problem, x0_hat, now))

    def residual(x):
        return np.linalg.norm(law.y - law.matrix @ x)

    assert residual(u) < residual(x0_hat)
    published = dataclasses.replace(solver, curvature=NoCurvature())
    plain = published.correct(KEY, problem, x0_hat, now)
    step = law.matrix.T @ (law.y - law.matrix @ x0_hat) / 1e-3**2
    expected = x0_hat + step / float(solver.penalty(now.sigma, 1.0))
    np.testing.assert_allclose(plain, expected, **EXACT64)
    assert residual(plain) > 100 * residual(x0_hat)


@pytest.mark.usefixtures("x64")
def test_inverse_bench_steps_by_its_own_formulas():
    """rho = 2 lambda s_y^2 / (sigma s)^2, s = 1 / sqrt(1 + sigma^2), lambda = 8.

    With a singular system the minimiser of |y - A u|^2 + rho |u - D|^2, without one
    D - grad |y - A D|^2 / rho; nothing is clipped, and all of the noise is fresh.
    """
    law = bed()
    x, z = jnp.linspace(-9, 9, SIZE), np.linspace(1, -1, SIZE)
    now, next = jax.tree.map(lambda leaf: leaf[1], grid().pairs())
    sigma = float(now.sigma)
    rho = 2 * 8 * NOISE_STD**2 / (sigma / np.sqrt(1 + sigma**2)) ** 2
    x0_hat = law.denoise(np.asarray(x), sigma)
    data = law.matrix.T @ (law.y - law.matrix @ x0_hat)
    normal = law.matrix.T @ law.matrix + rho * np.eye(SIZE)
    expected = {
        DiffPIR.inverse_bench(): x0_hat + np.linalg.solve(normal, data),
        FirstOrderDiffPIR.inverse_bench_without_curvature(): x0_hat + 2 * data / rho,
    }
    for solver, u in expected.items():
        estimate = solver.bound(law.prior().denoise(x, now.sigma))
        found = solver.correct(KEY, law.problem(), estimate, now)
        np.testing.assert_allclose(found, u, **EXACT64)
        moved = solver.renoise(x, estimate, found, (now, next), jnp.asarray(z))
        np.testing.assert_allclose(moved, u + float(next.sigma) * z, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("task", "lambda_", "image_unit"),
    [("gaussian_deblurring", 7.0, 0.5), ("super_resolution_x4_imagenet", 35.0, 1.0)],
)
def test_the_released_first_order_step(task, lambda_, image_unit):
    """D - grad |r|^2 / 2 / rho, rho of noise on [0, 1].

    r is the residual on [0, 1] (unit 1/2) or on [-1, 1], D always on [-1, 1].
    """
    law = bed()
    now = jax.tree.map(lambda leaf: leaf[1], grid().pairs()[0])
    x0_hat = np.linspace(-1, 1, SIZE)
    rho = lambda_ * (NOISE_STD / 2) ** 2 / float(now.sigma) ** 2
    residual = image_unit * (law.matrix @ x0_hat - law.y)
    expected = x0_hat - image_unit * law.matrix.T @ residual / rho
    solver = FirstOrderDiffPIR.released_code_without_curvature(task)
    found = solver.correct(KEY, law.problem(), jnp.asarray(x0_hat), now)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_deepinv_weighs_the_estimate_twice():
    """prox with gamma = 1 / (2 rho) of |A x - y|^2 / 2, all of it on [0, 1]."""
    law, solver = bed(), DiffPIR.deepinv()
    now = jax.tree.map(lambda leaf: leaf[1], grid().pairs()[0])
    x0_hat = np.linspace(-1, 1, SIZE)
    rho = 7 * (NOISE_STD / 2) ** 2 / float(now.sigma) ** 2
    normal = law.matrix.T @ law.matrix / (2 * rho) + np.eye(SIZE)
    expected = np.linalg.solve(normal, law.matrix.T @ law.y / (2 * rho) + x0_hat)
    found = solver.correct(KEY, law.problem(), jnp.asarray(x0_hat), now)
    np.testing.assert_allclose(found, expected, **EXACT64)
    assert (solver.zeta, solver.grid.num_steps) == (0.1, 100)


@pytest.mark.usefixtures("x64")
def test_back_projection_moves_a_little_towards_the_data():
    law, x0_hat = bed(), np.linspace(-1, 1, SIZE)
    moved = BackProjection(step_size=0.1)(
        law.problem(), jnp.asarray(x0_hat), jnp.asarray(1.0)
    )
    pinv = np.linalg.pinv(law.matrix)
    expected = x0_hat + 0.1 * pinv @ (law.y - law.matrix @ x0_hat)
    np.testing.assert_allclose(moved, expected, **EXACT64)


def test_published_levels_and_settings():
    assert quadratic_grid(100).time[:4].tolist() == [999, 899, 857, 825]
    assert quadratic_grid(100).time[-6:].tolist() == [20, 15, 10, 5, 0, -1]
    assert quadratic_grid(20).time[-5:].tolist() == [82, 54, 26, 0, -1]
    deblurring = DiffPIR.released_code("gaussian_deblurring")
    assert (deblurring.penalty.strength, deblurring.zeta) == (7 / 4, 0.3)
    assert deblurring.bound is clip
    assert DiffPIR.released_code("box_inpainting").grid.num_steps == 20


@pytest.mark.parametrize("num_steps", [1, 600])
def test_impossible_levels_are_explained(num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}"):
        quadratic_grid(num_steps)


@pytest.mark.parametrize("length", [2, 20, 50, 101, 117, 345, 465])
def test_indices_of_the_quadratic_grid_are_exact(length):
    """With 117, 345 and 465 the floats of the released code miss a whole number."""
    ends = [math.isqrt(10**6 * k // (length - 1)) for k in range(length)]
    expected = [999 - min(end, 999) for end in ends]
    assert quadratic_grid(length).time[:-1].tolist() == expected
