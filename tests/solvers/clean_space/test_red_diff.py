"""RED-diff against closed forms of its regulariser, its fixed points and Adam."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import DiffusionPrior
from diffctl.diffusion import NoiseGrid
from diffctl.numerics.descent import Descent
from diffctl.operators import DenseMatrix, FunctionOperator, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import (
    REDDiff,
    averaged_residual,
    negative_log_likelihood,
    solve,
    squared_residual,
)
from diffctl.solvers.clean_space import red_diff_terms
from tests.solvers.bed import NOISE_STD, SIZE, Bed, bed, grid
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(9)
PLAIN = Descent.gradient(1.0)
MU = np.linspace(-0.9, 0.8, SIZE)


def _eps(key):
    return np.asarray(jax.random.normal(jax.random.split(key)[1], (SIZE,)))


@functools.partial(jax.jit, static_argnames="first_guess")
def _excess(keys, prior, problem, first_guess):
    """lambda w e for every key: what one plain step without data subtracts from mu."""
    solver = REDDiff(
        grid=grid(), data_weight=0.0, descent=PLAIN, first_guess=first_guess
    )
    now = jax.tree.map(lambda leaf: leaf[2], grid().pairs()[0])

    def subtracted(key):
        carry = solver.init(key, problem, prior)[0]
        moved = solver.step(carry, (now, key), problem, prior)[0]
        return carry.mu - moved.mu

    return jax.vmap(subtracted)(keys)


def _at_mu(problem, like):
    return jnp.asarray(MU)


@pytest.mark.usefixtures("x64")
def test_the_regulariser_has_the_mean_of_the_closed_form():
    """n = 20000 draws, k = 4; each of them is checked against matrices, too."""
    law, keys = bed(), jax.random.split(KEY, 20_000)
    found = np.asarray(_excess(keys, law.prior(), law.problem(), _at_mu))
    sigma = float(grid().sigma[2])
    weight = 0.25 * sigma
    for key, row in zip(keys[:3], found[:3], strict=True):
        eps = _eps(key)
        noisy = MU + sigma * eps
        expected = weight * ((noisy - law.denoise(noisy, sigma)) / sigma - eps)
        np.testing.assert_allclose(row, expected, **EXACT64)
    noisy_covariance = law.covariance + sigma**2 * np.eye(SIZE)
    mean = weight * sigma * np.linalg.solve(noisy_covariance, MU - law.mean)
    bound = stat(len(found)) * np.std(found, axis=0)
    assert np.all(np.abs(np.mean(found, axis=0) - mean) < bound)
    assert np.all(bound < 0.1 * np.max(np.abs(mean)))


def _fixed_point(law: Bed, sigma, reg_weight):
    """The deterministic part of 1500 plain iterations at one level.

    They are affine: the run with all means 0 and the same key gives the noise's part.
    """
    levels = jnp.full(1501, sigma)
    solver = REDDiff(
        grid=NoiseGrid(sigma=levels, scale=jnp.ones_like(levels), time=levels),
        reg_weight=reg_weight,
        descent=Descent.gradient(0.05),
    )
    zero = law._replace(mean=0 * law.mean, y=0 * law.y)
    ends = [solve(KEY, w.problem(), w.prior(), solver).x for w in (law, zero)]
    return np.asarray(ends[0] - ends[1])


@pytest.mark.usefixtures("x64")
def test_the_fixed_point_is_a_tikhonov_solution():
    law, sigma, reg_weight = bed(), 0.7, 0.9
    precision = np.linalg.inv(law.covariance + sigma**2 * np.eye(SIZE))
    weight = reg_weight * sigma**2 * precision
    normal = law.matrix.T @ law.matrix + weight
    expected = np.linalg.solve(normal, law.matrix.T @ law.y + weight @ law.mean)
    np.testing.assert_allclose(
        _fixed_point(law, sigma, reg_weight), expected, rtol=1e-8
    )


@pytest.mark.usefixtures("x64")
def test_the_mode_of_the_posterior_has_a_weight_of_its_own():
    """lambda sigma^2 / (s^2 + sigma^2) = sigma_y^2 / s^2, for an isotropic prior."""
    variance, sigma = 0.4, 1.3
    law = bed()._replace(covariance=variance * np.eye(SIZE))
    reg_weight = NOISE_STD**2 / variance * (variance + sigma**2) / sigma**2
    posterior = law.prior().posterior(
        jnp.asarray(law.y), jnp.asarray(law.matrix), jnp.asarray(NOISE_STD)
    )
    found = _fixed_point(law, sigma, reg_weight)
    np.testing.assert_allclose(found, posterior.mean, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_iterations_are_those_of_adam():
    law = bed()
    solver = REDDiff(grid=grid(3), posterior_std=0.2, reg_weight=0.7)
    found = solve(KEY, law.problem(), law.prior(), solver).x
    mu, first, second = np.zeros(SIZE), 0.0, 0.0
    steps = zip(np.asarray(grid(3).sigma), jax.random.split(KEY, 3), strict=False)
    for k, (sigma, key) in enumerate(steps, start=1):
        z = np.asarray(jax.random.normal(jax.random.split(key)[0], (SIZE,)))
        x0 = mu + 0.2 * z
        noisy = x0 + sigma * _eps(key)
        excess = (noisy - law.denoise(noisy, sigma)) / sigma - _eps(key)
        gradient = law.matrix.T @ (law.matrix @ x0 - law.y) + 0.7 * sigma * excess
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        root = np.sqrt(second / (1 - 0.99**k))
        mu = mu - 0.1 * first / (1 - 0.9**k) / (root + 1e-8)
    np.testing.assert_allclose(found, mu, rtol=1e-7)


@jax.custom_jvp
def _opaque(x):
    return x


@_opaque.defjvp
def _(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


@pytree_dataclass
class _WithoutDerivative(DiffusionPrior):
    inner: GaussianPrior

    @property
    def shape(self):  # type: ignore[override]
        return self.inner.shape

    def denoise(self, x, sigma):
        return self.inner.denoise(_opaque(x), sigma)


@pytest.mark.usefixtures("x64")
def test_no_gradient_flows_into_the_network():
    law, solver = bed(), REDDiff(grid=grid(3))
    plain = solve(KEY, law.problem(), law.prior(), solver).x
    hidden = _WithoutDerivative(inner=law.prior())
    np.testing.assert_array_equal(solve(KEY, law.problem(), hidden, solver).x, plain)
    tangent = jax.jvp(hidden.denoise, (plain, 1.0), (plain, 0.0))[1]
    assert np.all(np.isnan(tangent))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_losses_and_the_unit_of_the_measurement(scale):
    """The likelihood does not depend on it; lambda has that of the squared residual."""
    law = bed()._replace(matrix=scale * bed().matrix, y=scale * bed().y)
    noise = GaussianNoise(std=scale * NOISE_STD)
    problem = dataclasses.replace(law.problem(), noise=noise)
    residual = bed().y - bed().matrix @ MU
    squares = residual @ residual / 2
    expected = {
        squared_residual: scale**2 * squares,
        averaged_residual: scale**2 * squares * SIZE / residual.size,
        negative_log_likelihood: squares / NOISE_STD**2,
    }
    for loss, value in expected.items():
        np.testing.assert_allclose(loss(problem, jnp.asarray(MU)), value, **EXACT64)


def test_weights():
    sigma = jnp.asarray(4.0)
    found = {
        name: float(getattr(red_diff_terms, f"{name}_weight")(sigma))
        for name in (
            "linear", "square_root", "two_thirds", "squared", "log", "capped",
            "constant",
        )
    }  # fmt: skip
    assert found == pytest.approx(
        {
            "linear": 4.0, "square_root": 2.0, "two_thirds": 2.519842, "squared": 16.0,
            "log": 1.609438, "capped": 1.0, "constant": 1.0,
        },
    )  # fmt: skip


def test_published_settings():
    inpainting = REDDiff.released_code("box_inpainting")
    assert inpainting.reg_weight == 1.0
    assert inpainting.descent.hyperparams["learning_rate"] == 0.25
    assert inpainting.data_loss is averaged_residual
    assert inpainting.grid.time[:2].tolist() == [999, 998]
    noiseless = REDDiff.released_code("box_inpainting_noiseless")
    assert (noiseless.reg_weight, noiseless.posterior_std) == (0.25, 1e-4)
    batch = REDDiff.released_batch(num_steps=10)
    assert batch.reg_weight == 1.0
    assert batch.descent.hyperparams["learning_rate"] == 0.1
    law = bed()
    start = REDDiff.released_code("box_inpainting", num_steps=2).init(
        KEY, law.problem(), law.prior()
    )[0]
    np.testing.assert_allclose(
        start.mu, np.linalg.pinv(law.matrix) @ law.y, rtol=1e-4, atol=1e-5
    )


def test_the_released_start_leaves_out_small_singular_values():
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] for _ in range(2))
    s = np.array([2.0, 0.07, 0.05, 1e-4])  # 0.03 of the largest is 0.06
    y = rng.normal(size=SIZE)
    operator = DenseMatrix.from_array(jnp.asarray(left * s @ right.T))
    problem = Problem(y=jnp.asarray(y), operator=operator, noise=GaussianNoise(std=0.1))
    solver = REDDiff.released_code("gaussian_deblurring", num_steps=2)
    start = solver.init(KEY, problem, bed().prior())[0]
    expected = right[:, :2] @ (left.T @ y / s)[:2]
    np.testing.assert_allclose(start.mu, expected, rtol=1e-4, atol=1e-4)


def test_published_settings_of_a_task_without_pseudo_inverse():
    """The guess of the code for high dynamic range; A^+ y is refused."""
    y = jnp.linspace(-1, 1, SIZE)
    clipped = FunctionOperator.create(lambda x: jnp.clip(2 * x, -1, 1), (SIZE,))
    problem = Problem(y=y, operator=clipped, noise=GaussianNoise(std=0.1))
    settings = {"num_steps": 2, "first_guess": lambda problem, like: problem.y / 2}
    solver = REDDiff.released_code("high_dynamic_range", **settings)
    start = solver.init(KEY, problem, bed().prior())[0]
    np.testing.assert_array_equal(start.mu, y / 2)
    assert solver.descent.hyperparams["learning_rate"] == 0.5
    linear = REDDiff.released_code("high_dynamic_range", num_steps=2)
    with pytest.raises(TypeError, match="start that does not invert"):
        linear.init(KEY, problem, bed().prior())


@pytest.mark.usefixtures("x64")
def test_a_step_of_inverse_bench_sums_squares_without_a_half():
    """Its gradient is 2 A^T (A mu - y) + e / 4, without noise in e for x0 = mu."""
    law = bed()
    bench = REDDiff.inverse_bench(num_steps=10)
    assert bench.descent.hyperparams["learning_rate"] == 0.02
    plain = dataclasses.replace(bench, descent=PLAIN)
    carry = plain.init(KEY, law.problem(), law.prior())[0]
    now = jax.tree.map(lambda leaf: leaf[4], plain.grid.pairs()[0])
    at_mu = carry._replace(mu=jnp.asarray(MU))
    moved = plain.step(at_mu, (now, KEY), law.problem(), law.prior())[0]

    sigma, eps = float(now.sigma), _eps(KEY)
    noisy = MU + sigma * eps
    excess = (noisy - law.denoise(noisy, sigma)) / sigma - eps
    gradient = 2 * law.matrix.T @ (law.matrix @ MU - law.y) + 0.25 * excess
    np.testing.assert_allclose(moved.mu, MU - gradient, rtol=1e-6, atol=1e-7)
