"""Plug-and-play and RED with denoisers whose fixed points are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors import DenoiserProx, GaussianPrior, RegularizedByDenoising
from diffctl.solvers import ADMM, FISTA, HQS, ISTA, RED, ChambollePock, solve
from tests.solvers.bed import NOISE_STD, SIZE, bed
from tests.solvers.classical.energies import KEY, LinearDenoiser
from tests.tolerances import EXACT64

LEVELS = (0.3, 1.0, 3.0)


def _posterior_mean(wider: float = 0.0) -> np.ndarray:
    """Return the posterior mean for the bed's prior with `wider` added to variances."""
    law = bed()
    covariance = law.covariance + wider * np.eye(SIZE)
    prior = GaussianPrior.from_moments(law.mean, covariance)
    return np.asarray(prior.posterior(law.y, law.matrix, NOISE_STD).mean)


def _solve(prior, solver):
    return solve(KEY, bed().problem(), prior, solver).x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sigma", LEVELS)
def test_plug_and_play_admm_finds_the_posterior_mean_at_any_level(sigma):
    prior = DenoiserProx(prior=bed().prior())
    solver = ADMM(num_steps=2000, penalty=1 / sigma**2, num_inner=8)
    np.testing.assert_allclose(_solve(prior, solver), _posterior_mean(), **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver",
    [
        ISTA(num_steps=2500, step_size=0.3),
        ISTA(num_steps=600, step_size=1.9),
        FISTA(num_steps=600),
        ChambollePock(num_steps=2000),
        ADMM(num_steps=300, penalty=1.0, final_penalty=9.0, num_inner=8),
    ],
)
def test_so_do_the_others_with_the_natural_pairing(solver):
    prior = DenoiserProx(prior=bed().prior())
    np.testing.assert_allclose(_solve(prior, solver), _posterior_mean(), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_dual_variable_follows_the_penalty():
    """A step from the fixed point, to another penalty, stays at the fixed point."""
    law, prior = bed(), DenoiserProx(prior=bed().prior())
    x = jnp.asarray(_posterior_mean())
    slope = law.matrix.T @ (law.matrix @ np.asarray(x) - law.y) / NOISE_STD**2
    solver = ADMM(num_steps=2, penalty=2.0, final_penalty=50.0, num_inner=8)
    carry = (x, x, jnp.asarray(-slope / 2.0))
    _, penalties = solver.init(KEY, law.problem(), prior)
    for i in range(2):
        now = jax.tree.map(lambda leaf, i=i: leaf[i], penalties)
        carry, _ = jax.jit(solver.step)(carry, now, law.problem(), prior)
        np.testing.assert_allclose(carry[0], x, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("sigma", "solver"),
    [
        *((s, HQS(num_steps=600, final_penalty=None, num_inner=8)) for s in LEVELS),
        *((s, RED(num_steps=2500, final_penalty=None)) for s in LEVELS[:2]),
    ],
)
def test_without_dual_variable_the_prior_is_wider_by_the_level(sigma, solver):
    prior = DenoiserProx(prior=bed().prior())
    solver = dataclasses.replace(solver, penalty=1 / sigma**2)
    expected = _posterior_mean(wider=sigma**2)
    np.testing.assert_allclose(_solve(prior, solver), expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_weight_of_a_denoiser_decouples_level_and_penalty():
    """RED at strength 5 with a denoiser at 0.6: (grad f + 5 (x - D(x; 0.6))) = 0."""
    law = bed()
    prior = DenoiserProx(prior=law.prior(), weight=5 * 0.6**2)
    gap = np.eye(SIZE) - law.jacobian(0.6)
    hessian = law.matrix.T @ law.matrix / NOISE_STD**2
    rhs = law.matrix.T @ law.y / NOISE_STD**2 + 5 * gap @ law.mean
    expected = np.linalg.solve(hessian + 5 * gap, rhs)
    for solver in (
        HQS.red_fixed_point(5.0, num_steps=600, num_inner=8),
        RED(num_steps=3000, penalty=5.0, final_penalty=None),
    ):
        np.testing.assert_allclose(_solve(prior, solver), expected, **EXACT64)
    # The same by the ADMM of RED's paper.
    red = RegularizedByDenoising(
        denoiser=DenoiserProx(prior=law.prior()),
        strength=5.0,
        variance=0.36,
        num_inner=60,
    )
    found = _solve(red, ADMM(num_steps=300, penalty=3.0, num_inner=8))
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_symmetric_filters():
    """RED: (A^T A / s^2 + l (I - W)) x = b; plug-and-play: with p (W^{-1} - I)."""
    law = bed()
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    w = (basis * np.linspace(0.3, 0.95, SIZE)) @ basis.T
    prior = LinearDenoiser(matrix=jnp.asarray(w))
    hessian = law.matrix.T @ law.matrix / NOISE_STD**2
    b = law.matrix.T @ law.y / NOISE_STD**2
    eye = np.eye(SIZE)
    red = np.linalg.solve(hessian + 4 * (eye - w), b)
    pnp = np.linalg.solve(hessian + 4 * (np.linalg.inv(w) - eye), b)
    for solver, expected in (
        (RED(num_steps=3000, penalty=4.0, final_penalty=None), red),
        (HQS.red_fixed_point(4.0, num_steps=1000, num_inner=8), red),
        (ADMM(num_steps=1000, penalty=4.0, num_inner=8), pnp),
    ):
        np.testing.assert_allclose(_solve(prior, solver), expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_damping_mixes_the_input_in():
    law, x = bed(), np.linspace(-1, 1, SIZE)
    prior = DenoiserProx(prior=law.prior(), weight=2.0, damping=0.25)
    expected = 0.75 * law.denoise(x, np.sqrt(2 * 0.3)) + 0.25 * x
    found = prior.prox(jnp.asarray(x), jnp.asarray(0.3))
    np.testing.assert_allclose(found, expected, **EXACT64)


def test_defaults_go_down_the_levels_of_the_denoiser():
    ends = ((HQS(), 3, 0.02), (ADMM.plug_and_play(), 3, 0.02), (RED(), 0.5, 0.05))
    for solver, first, last in ends:
        levels = 1 / np.sqrt(solver.penalties(jnp.float32))
        np.testing.assert_allclose(levels[[0, -1]], [first, last], rtol=1e-5)
        ratios = levels[1:] / levels[:-1]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
