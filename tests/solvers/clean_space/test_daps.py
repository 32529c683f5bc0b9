"""DAPS against its scalar recursions, exact posteriors and its own parts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import NoiseGrid
from diffctl.operators import GaussianNoise, PoissonNoise
from diffctl.priors import GaussianPrior
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import (
    DAPS,
    DecayingStep,
    ExactDraw,
    FlowToClean,
    FlowToLevel,
    FrozenScore,
    HamiltonianMonteCarlo,
    Langevin,
    MetropolisHastings,
    NormalSurrogate,
    RelativeStep,
    ScoreLaw,
    UnderdampedLangevin,
    daps_grid,
    solve,
)
from diffctl.solvers.clean_space.clean_laws import CleanLaw, NormalLaw
from diffctl.solvers.clean_space.conditional import Conditional
from diffctl.solvers.clean_space.flows import Flow
from diffctl.solvers.clean_space.inner_samplers import InnerSampler
from tests.contract.counting import counted, counting
from tests.solvers.bed import NOISE_STD, SIZE, bed, grid, mixture
from tests.solvers.clean_space.scalars import SHARP, WEAK, sampler_moments
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(10)
ALL_OF_SIGMA = NormalSurrogate(signal_std=math.inf)


@pytree_dataclass
class _ExactFlow(Flow):
    """The flow of a Gaussian prior in closed form."""

    def levels(self, sigma):
        return jnp.append(sigma, 0.0)

    def __call__(self, prior, x, sigma):
        return prior.flow(x, *self.levels(sigma))


def _check(scalar, solver, mean, variance):
    """The digits of the table; the least precise variance has five."""
    found = sampler_moments(solver, scalar.problem(), scalar.prior())
    np.testing.assert_allclose(found[0], mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=2e-5)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("scalar", "flow", "signal_std", "mean", "variance"),
    [
        (WEAK, FlowToLevel(num_steps=5), math.inf, 0.965613, 0.230562),
        (SHARP, FlowToLevel(num_steps=5), math.inf, 0.797126, 2.475895e-3),
        (WEAK, _ExactFlow(), math.inf, 1.038017, 0.255931),
        (SHARP, _ExactFlow(), math.inf, 0.797595, 2.479782e-3),
        (WEAK, FlowToClean(), math.inf, 0.800629, 0.170519),
        (WEAK, FlowToClean(), 0.5, 0.7651006711, 0.1677852349),
        (SHARP, FlowToClean(), 0.5, 0.795049505, 2.475247525e-3),
    ],
)
def test_scalar_recursion_with_exact_draws(scalar, flow, signal_std, mean, variance):
    """With the denoiser and the variance of the signal it is the posterior."""
    solver = DAPS(
        grid=daps_grid(),
        flow=flow,
        law=NormalSurrogate(signal_std=signal_std),
        sampler=ExactDraw(),
    )
    _check(scalar, solver, mean, variance)


def _langevin_recursion(scalar, first, effective_std, num_levels=200):
    """Mean and variance after all levels, with chains of 100 steps at each of them.

    A chain from v0 for N(m, 1 / P) ends as N(m + rho (v0 - m), v) with rho =
    (1 - h P)^100 and v = (1 - rho^2) / (P (1 - h P / 2)); here v0 = x0_hat, and m
    depends on x0_hat and y.
    """
    weight = scalar.gain / effective_std**2
    sigma = np.asarray(daps_grid(num_levels).sigma)
    mean, variance = 0.0, sigma[0] ** 2
    for k in range(num_levels):
        g = np.linspace(sigma[k] ** (1 / 7), 0.01 ** (1 / 7), 6) ** 7
        a = np.prod(
            (scalar.variance + g[:-1] * g[1:]) / (scalar.variance + g[:-1] ** 2)
        )
        step = first * (1 - 0.99 * k / (num_levels + 1))
        precision = 1 / sigma[k] ** 2 + weight * scalar.gain
        rho = (1 - step * precision) ** 100
        on_x0_hat = rho + (1 - rho) / (precision * sigma[k] ** 2)
        x0_hat = scalar.mean + a * (mean - scalar.mean)
        mean = on_x0_hat * x0_hat + (1 - rho) * weight * scalar.y / precision
        spread = (1 - rho**2) / (precision * (1 - step * precision / 2))
        variance = (on_x0_hat * a) ** 2 * variance + spread + sigma[k + 1] ** 2
    return mean, variance


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("scalar", "first", "effective_std", "mean", "variance"),
    [
        (SHARP, 1e-4, 0.01 / math.sqrt(2), 0.799718, 5.5702e-5),
        (SHARP, 5e-5, 0.01 / math.sqrt(2), 0.798041, 2.5284e-4),
        (SHARP, 1e-4, 0.05, 0.697985, 4.2382e-2),
        (WEAK, 1e-4, 0.5, 0.321737, 0.205986),
        (WEAK, 1e-2, 0.5, 0.911920, 0.243225),
    ],
)
def test_scalar_recursion_of_the_released_code(
    scalar, first, effective_std, mean, variance
):
    released = DAPS.released_code("random_inpainting")
    assert released.sampler.step_size.first == 1e-4
    assert released.effective_std == 0.01 / math.sqrt(2)
    step_size = dataclasses.replace(released.sampler.step_size, first=first)
    solver = dataclasses.replace(
        released,
        sampler=dataclasses.replace(released.sampler, step_size=step_size),
        effective_std=effective_std,
    )
    found = _check(scalar, solver, mean, variance)
    exact = _langevin_recursion(scalar, first, effective_std)
    np.testing.assert_allclose(found, exact, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "sampler",
    [
        Langevin(num_steps=4, step_size=DecayingStep(first=0.02, last_ratio=0.5)),
        UnderdampedLangevin(
            num_steps=4, step_size=DecayingStep(first=0.02), momentum=0.6
        ),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_draws_are_independent(sampler):
    """Chains have the moments of independent draws; n = 4000, k = 4."""
    problem, prior, count = WEAK.problem(), WEAK.prior(), 4000
    solver = DAPS(grid=daps_grid(8), sampler=sampler)
    mean, variance = sampler_moments(solver, problem, prior)
    keys = jax.random.split(KEY, count)
    found = jax.vmap(lambda key: solve(key, problem, prior, solver).x[0])(keys)
    assert abs(jnp.mean(found) - mean) < stat(count) * jnp.sqrt(variance)
    assert abs(jnp.var(found) / variance - 1) < math.sqrt(2) * stat(count)


@pytest.mark.usefixtures("x64")
def test_the_flow_follows_the_euler_recursion():
    """Factors prod (s^2 + g g') / (s^2 + g^2), over 5 levels down to 0.01."""
    prior, sigma, x = WEAK.prior(), 2.0, jnp.asarray([1.7])
    roots = np.linspace(sigma ** (1 / 7), 0.01 ** (1 / 7), 6)
    levels = {
        FlowToLevel(num_steps=5): roots**7,
        FlowToClean(num_steps=6): np.append(roots**7, 0),
        FlowToClean(): np.asarray([sigma, 0.0]),
    }
    for flow, g in levels.items():
        found = jax.jit(flow)(prior, x, jnp.asarray(sigma))
        factors = (0.25 + g[:-1] * g[1:]) / (0.25 + g[:-1] ** 2)
        np.testing.assert_allclose(found, 0.3 + np.prod(factors) * 1.4, **EXACT64)
    below = FlowToClean(num_steps=3).levels(jnp.asarray(0.005))
    np.testing.assert_allclose(below, [0.005, 0.005, 0.005, 0.0], **EXACT64)


@pytree_dataclass
class _TrueLaw(CleanLaw):
    """p(x0 | x_sigma) itself: for exact priors, an exact prior again."""

    def at(self, prior, x, sigma, x0_hat):
        return prior.posterior(x, jnp.eye(x.size), sigma)

    def calls(self, num_scores):
        return 0


@pytree_dataclass
class _TrueConditional(InnerSampler):
    @property
    def num_scores(self):
        return 0

    def draw(self, key, conditional):
        problem, law = conditional.problem, conditional.law
        matrix = jnp.asarray(bed().matrix)
        return law.posterior(problem.y, matrix, problem.noise.std).sample(key)


@pytest.mark.usefixtures("x64")
def test_exact_conditionals_give_the_posterior_whatever_the_grid():
    """A mixture in 4 dimensions; n = 4000 chains."""
    prior, problem = mixture(), bed().problem()
    # The start must have the first marginal: the noise alone, beside which x0 vanishes.
    levels = NoiseGrid.from_sigmas([1e4, 20.0, 0.5])
    solver = DAPS(grid=levels, law=_TrueLaw(), sampler=_TrueConditional())
    keys = jax.random.split(KEY, 4000)
    found = jax.vmap(lambda key: solve(key, problem, prior, solver).x)(keys)
    posterior = jax.jit(prior.posterior)(
        problem.y, jnp.asarray(bed().matrix), NOISE_STD
    )
    _assert_moments(found, *jax.jit(posterior.moments)())


def _draws(sampler, num=2000, law=ALL_OF_SIGMA, problem=None):
    """Draws from p(x0 | x, y) at one level, for a linear problem in the plane."""
    problem = _plane() if problem is None else problem
    prior, sigma = GaussianPrior.from_moments([0.1, -0.2], np.eye(2)), jnp.asarray(0.7)
    solver = DAPS(grid=grid(), law=law, sampler=sampler)
    return _steps(jax.random.split(KEY, num), solver, problem, prior, sigma)


@jax.jit
def _steps(keys, solver, problem, prior, sigma):
    zero = jnp.zeros_like(sigma)
    now, next = (
        jax.tree.map(lambda leaf: leaf[0], NoiseGrid(sigma=s, scale=s, time=s).pairs())[
            0
        ]
        for s in (jnp.stack([sigma, zero]), jnp.stack([zero, zero]))
    )

    def step(key):
        x = jnp.asarray([0.6, 0.3])
        return solver.step(x, (now, next, jnp.asarray(0.5), key), problem, prior)[0]

    return jax.vmap(step)(keys)


def _plane(noise_std=0.5):
    law = bed()._replace(matrix=np.asarray([[1.0, 0.4]]), y=np.asarray([0.9]))
    noise = GaussianNoise(std=noise_std)
    return dataclasses.replace(law.problem(), noise=noise)


def _conditional(noise_std=0.5, variance=0.49):
    """Mean and covariance of N(x0_hat, variance I) given y."""
    matrix = np.asarray([[1.0, 0.4]])
    shrink = 1 / (1 + 0.7**2)
    x0_hat = np.asarray([0.1, -0.2]) + shrink * np.asarray([0.5, 0.5])
    precision = matrix.T @ matrix / noise_std**2 + np.eye(2) / variance
    pull = matrix.T @ [0.9] / noise_std**2 + x0_hat / variance
    return np.linalg.solve(precision, pull), np.linalg.inv(precision)


def _assert_moments(draws, mean, covariance):
    """n draws, k = 4; the spread of second moments is at most sqrt(2) of the scale."""
    draws, bound = np.asarray(draws), stat(len(draws))
    scale = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < bound * scale)
    error = np.cov(draws.T) - covariance
    assert np.all(np.abs(error) < math.sqrt(2) * bound * np.outer(scale, scale))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "sampler",
    [
        ExactDraw(),
        MetropolisHastings(num_steps=150, step_size=DecayingStep(first=0.6)),
        Langevin(num_steps=300, step_size=DecayingStep(first=0.01, last_ratio=1.0)),
        UnderdampedLangevin(
            num_steps=150,
            step_size=DecayingStep(first=0.01, last_ratio=1.0),
            momentum=0.6,
        ),
        HamiltonianMonteCarlo(num_steps=20, step_size=DecayingStep(first=0.01)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_inner_samplers_reach_the_conditional(sampler):
    """Biases of the unadjusted chains, h P / 4 = 1.6 %, are below the bound of 12 %."""
    _assert_moments(_draws(sampler), *_conditional())


@pytest.mark.usefixtures("x64")
def test_a_chain_without_a_density_says_so():
    sampler = MetropolisHastings(num_steps=150, step_size=DecayingStep(first=1.0))
    problem = dataclasses.replace(_plane(), y=jnp.asarray([jnp.nan]))
    assert np.all(np.isnan(_draws(sampler, problem=problem)))


@pytest.mark.usefixtures("x64")
def test_without_data_the_chain_keeps_the_law_of_the_estimate():
    sampler = MetropolisHastings(num_steps=150, step_size=DecayingStep(first=1.0))
    draws = _draws(sampler, problem=_plane(noise_std=1e8))
    _assert_moments(draws, *_conditional(noise_std=1e8))


@pytest.mark.usefixtures("x64")
def test_step_sizes():
    """The plane has one curvature, |a|^2 / s_y^2; the law has another, 1 / variance."""
    law = NormalLaw(mean=jnp.zeros(2), variance=jnp.asarray(0.2))
    conditional = Conditional(_plane(), law, jnp.zeros(2), jnp.asarray(0.25))
    found = jax.jit(RelativeStep(fraction=0.3))(KEY, conditional)
    np.testing.assert_allclose(found, 0.3 / (1 / 0.2 + 1.16 / 0.25), **EXACT64)
    found = DecayingStep(first=2e-4, last_ratio=0.2)(KEY, conditional)
    np.testing.assert_allclose(found, 2e-4 * 0.8, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_laws_of_the_clean_image():
    prior, x, sigma = bed().prior(), jnp.linspace(-1, 2, SIZE), jnp.asarray(0.6)
    x0_hat, v = jnp.linspace(-0.5, 0.5, SIZE), jnp.linspace(0.3, -0.2, SIZE)
    frozen = FrozenScore(sigma_score=0.05).at(prior, x, sigma, x0_hat)
    score = prior.score(x0_hat, 0.05) + (x - v) / sigma**2
    np.testing.assert_allclose(frozen.score(v), score, **EXACT64)
    exact = ScoreLaw(sigma_score=0.05).at(prior, x, sigma, x0_hat)
    score = prior.score(v, 0.05) + (x - v) / sigma**2
    np.testing.assert_allclose(exact.score(v), score, **EXACT64)
    # Its mode is the denoiser, but for the level of the score.
    mode = ScoreLaw(sigma_score=1e-4).at(prior, x, sigma, x0_hat)
    at_mode = mode.score(prior.denoise(x, sigma))
    np.testing.assert_allclose(at_mode, 0, rtol=0, atol=1e-5)
    normal = NormalSurrogate(signal_std=0.8).at(prior, x, sigma, x0_hat)
    variance = 1 / (1 / 0.36 + 1 / 0.64)
    np.testing.assert_allclose(normal.score(v), (x0_hat - v) / variance, **EXACT64)
    gradient = jax.grad(normal.log_density)(v)
    np.testing.assert_allclose(gradient, normal.score(v), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_unit_of_the_measurement_does_not_matter():
    law = bed()
    solver = DAPS(grid=grid(3), sampler=Langevin(num_steps=5))
    scaled = dataclasses.replace(
        law._replace(matrix=3 * law.matrix, y=3 * law.y).problem(),
        noise=GaussianNoise(std=3 * NOISE_STD),
    )
    pair = [solve(KEY, p, law.prior(), solver).x for p in (law.problem(), scaled)]
    np.testing.assert_allclose(*pair, rtol=1e-9)


def test_calls_are_counted_by_flow_and_law():
    flow = FlowToLevel(num_steps=3)
    solver = DAPS(grid=grid(2), flow=flow, law=FrozenScore(), sampler=ExactDraw())
    prior = counted(bed().prior())
    with counting() as calls:
        solution = solve(KEY, bed().problem(), prior, solver)
        jax.block_until_ready(solution.x)
    assert calls["fwd"] == solution.stats.nfe_fwd == 2 * (3 + 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"law": ScoreLaw(), "sampler": ExactDraw()}, "ExactDraw needs.*ScoredLaw"),
        ({"law": ScoreLaw(), "sampler": MetropolisHastings()}, "no density.*Langevin"),
    ],
)
def test_combinations_that_cannot_work_are_explained(fields, message):
    solver = DAPS(grid=grid(2), **fields)
    with pytest.raises(TypeError, match=message):
        solve(KEY, bed().problem(), bed().prior(), solver)


def test_only_white_noise_has_another_standard_deviation():
    problem = dataclasses.replace(bed().problem(), noise=PoissonNoise(peak=10.0))
    with pytest.raises(TypeError, match="PoissonNoise has none"):
        solve(KEY, problem, bed().prior(), DAPS(grid=grid(2), effective_std=0.1))


def test_published_settings():
    np.testing.assert_allclose(daps_grid().sigma[:2], [100, 97.825], rtol=1e-5)
    np.testing.assert_allclose(daps_grid().sigma[-2:], [0.10604, 0], rtol=1e-4)
    hmc = DAPS.released_hmc("super_resolution_x4").sampler
    assert (hmc.num_steps, hmc.momentum) == (12, 0.90)
    # Level 199 of 200: k / 201 of the way, in the first release k / 200.
    last = jnp.asarray(199 / 200)
    for solver, denominator in (
        (DAPS.released_code("box_inpainting"), 201),
        (DAPS.legacy_code("box_inpainting"), 200),
    ):
        size = solver.sampler.step_size.first * (
            1 + last * (solver.sampler.step_size.last_ratio - 1)
        )
        np.testing.assert_allclose(
            size, 5e-5 * (1 - 0.99 * 199 / denominator), rtol=1e-4
        )
    bench = DAPS.inverse_bench()
    assert (bench.flow.num_steps, bench.effective_std) == (5, 0.01)
