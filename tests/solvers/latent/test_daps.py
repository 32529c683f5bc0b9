"""LatentDAPS: DAPS behind a decoder, against a recursion and an exact posterior."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import NoiseGrid
from diffctl.operators import GaussianNoise, Problem
from diffctl.priors import GaussianPrior, LatentDiffusionPrior, LinearAutoencoder
from diffctl.solvers import (
    DAPS,
    DecayingStep,
    HamiltonianMonteCarlo,
    InLatentSpace,
    NormalSurrogate,
    solve,
)
from diffctl.solvers.clean_space.clean_laws import NormalLaw
from diffctl.solvers.clean_space.conditional import Conditional
from diffctl.solvers.latent.base import latent_problem
from tests.solvers.clean_space.scalars import SHARP, Scalar, sampler_moments
from tests.solvers.latent.bed import LATENT, NOISE_STD, latent_bed
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(27)
GAIN = 0.8  # of the decoder


class LatentScalar(NamedTuple):
    """x0 = GAIN z0 + shift, z0 and the measurement of x0 those of a `Scalar`."""

    scalar: Scalar
    shift: float = 0.1

    def prior(self) -> LatentDiffusionPrior:
        autoencoder = LinearAutoencoder.from_decoder(np.array([[GAIN]]), self.shift)
        return LatentDiffusionPrior.create(autoencoder, self.scalar.prior())

    def problem(self) -> Problem:
        return self.scalar.problem()


def _recursion(case: LatentScalar, daps: DAPS) -> tuple[float, float]:
    """Mean and variance of the image: underdamped steps are affine in (v, p, z0_hat).

    p <- m p + sqrt(h) (z0_hat / sigma^2 + pull - P v) + sqrt(2 (1 - m)) e
    v <- v + sqrt(h) p,   P = 1 / sigma^2 + (a / s)^2,   pull = a (y - shift) / s^2
    """
    scalar, chain = case.scalar, daps.sampler
    a, s = scalar.gain * GAIN, daps.effective_std
    pull = a * (scalar.y - scalar.gain * case.shift) / s**2
    m, decay = chain.momentum, chain.step_size
    levels = np.asarray(daps.grid.sigma)
    mean, variance = 0.0, levels[0] ** 2
    for k, (sigma, after) in enumerate(itertools.pairwise(levels)):
        g = np.linspace(sigma ** (1 / 7), 0.001 ** (1 / 7), 3) ** 7
        shrink = np.prod(
            (scalar.variance + g[:-1] * g[1:]) / (scalar.variance + g[:-1] ** 2)
        )
        progress = k / (levels.size - 1)
        root = math.sqrt(decay.first * (1 + progress * (decay.last_ratio - 1)))
        precision = 1 / sigma**2 + (a / s) ** 2
        push = np.array([-root * precision, m, root / sigma**2])
        move = np.stack([[1, 0, 0] + root * push, push, [0, 0, 1]])
        noise = math.sqrt(2 * (1 - m)) * np.array([root, 1, 0])
        offset = root * pull * np.array([root, 1, 0])
        z0_hat = scalar.mean + shrink * (mean - scalar.mean)
        state = np.array([z0_hat, 0, z0_hat])
        covariance = shrink**2 * variance * np.outer([1, 0, 1], [1, 0, 1])
        covariance += np.diag([0, 1, 0])
        for _ in range(chain.num_steps):
            state = move @ state + offset
            covariance = move @ covariance @ move.T + np.outer(noise, noise)
        mean, variance = state[0], covariance[0, 0] + after**2
    return GAIN * mean + case.shift, GAIN**2 * variance


@pytest.mark.usefixtures("x64")
def test_scalar_recursion_of_the_released_code():
    """DAPS on the latent and the composed operator, as `InLatentSpace` runs it."""
    released = DAPS.released_latent("super_resolution_x4")
    unlimited = dataclasses.replace(released, largest_pull=jnp.inf)
    case = LatentScalar(SHARP)
    problem, prior = case.problem(), case.prior()
    of_latent = latent_problem(problem, prior)
    mean, variance = sampler_moments(unlimited, of_latent, prior.latent)
    found = GAIN * mean + case.shift, GAIN**2 * variance
    np.testing.assert_allclose(found, _recursion(case, unlimited), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_default_reaches_the_posterior():
    """An isotropic latent prior behind a matrix; n = 2000 chains, k = 4."""
    law = latent_bed()
    latent = GaussianPrior.from_moments(law.mean, 0.25 * np.eye(LATENT))
    prior = dataclasses.replace(law.prior(), latent=latent)
    both = law.matrix @ law.decoder
    posterior = latent.posterior(
        jnp.asarray(law.y - law.matrix @ law.offset), jnp.asarray(both), NOISE_STD
    )
    # The noise of the first level hides that the start lacks the prior's spread.
    inner = DAPS(
        grid=NoiseGrid.from_sigmas([1e3, 3.0, 0.4]),
        law=NormalSurrogate(signal_std=0.5),
        sampler=HamiltonianMonteCarlo(
            num_steps=15, step_size=DecayingStep(first=5e-3, last_ratio=1.0)
        ),
    )
    solver = InLatentSpace(inner=inner)
    keys = jax.random.split(KEY, 2000)
    found = np.asarray(
        jax.vmap(lambda key: solve(key, law.problem(), prior, solver).x)(keys)
    )
    expected = law.decoder @ np.asarray(posterior.covariance()) @ law.decoder.T
    scale, bound = np.sqrt(np.diag(expected)), stat(len(keys))
    error = found.mean(axis=0) - law.decode(np.asarray(posterior.mean))
    assert np.all(np.abs(error) < bound * scale)
    error = np.cov(found.T) - expected
    assert np.all(np.abs(error) < math.sqrt(2) * bound * np.outer(scale, scale))


@pytest.mark.usefixtures("x64")
def test_the_released_pull_is_clipped_before_its_weight():
    """-clip(grad |y - A(D(z))|^2, -1, 1) / 0.01^2; some entries reach the limit."""
    law, daps = latent_bed(), DAPS.released_latent("gaussian_deblurring")
    problem = latent_problem(law.problem(), law.prior())
    conditional = Conditional(
        problem=dataclasses.replace(
            problem, noise=GaussianNoise(std=daps.effective_std)
        ),
        law=NormalLaw(mean=jnp.zeros(LATENT), variance=jnp.asarray(1.0)),
        x0_hat=jnp.zeros(LATENT),
        progress=jnp.asarray(0.0),
        largest_pull=daps.largest_pull,
    )
    z = np.array([0.9, -0.4, 0.6])
    gradient = 2 * (law.matrix @ law.decoder).T @ law.residual(z)
    assert 0 < np.sum(np.abs(gradient) > 1) < LATENT
    expected = -np.clip(gradient, -1, 1) / 0.01**2 - z
    np.testing.assert_allclose(conditional.score(jnp.asarray(z)), expected, **EXACT64)


def test_published_settings():
    latent = DAPS.released_latent("random_inpainting")
    assert (latent.grid.num_steps, latent.flow.num_steps) == (50, 2)
    assert latent.flow.sigma_end == 0.001
    np.testing.assert_allclose(latent.grid.sigma[0], 10.0, rtol=1e-6)
    assert (latent.sampler.num_steps, latent.sampler.momentum) == (38, 0.92)
    stable = DAPS.released_stable_diffusion("phase_retrieval")
    assert (stable.sampler.num_steps, stable.sampler.momentum) == (95, 0.47)
    # Level 49 of 50 is 49 / 51 of the way.
    step_size = stable.sampler.step_size
    last = step_size.first * (1 + 49 / 50 * (step_size.last_ratio - 1))
    np.testing.assert_allclose(last, 1.1e-4 * (1 - 0.973 * 49 / 51), rtol=1e-6)
