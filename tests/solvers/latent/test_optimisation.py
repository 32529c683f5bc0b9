"""CSGM and DMPlug through generators that are affine, where everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Euler, NoiseGrid
from diffctl.numerics import Descent
from diffctl.priors import GaussianConsistencyPrior, GaussianPrior
from diffctl.solvers import (
    ConsistencyCSGM,
    DMPlug,
    LastIterate,
    MovingVariance,
    SamplerCSGM,
    solve,
)
from diffctl.solvers.latent.dmplug import three_levels
from diffctl.solvers.latent.optimisation import LatentCarry, shell_penalty
from tests.solvers.bed import NOISE_STD, SIZE, bed, mixture
from tests.tolerances import EXACT32, EXACT64, FD64

KEY = jax.random.key(25)


def _heavy_ball(hessian):
    """Return the descent that converges fastest where the curvature is not zero."""
    curvatures = np.linalg.eigvalsh(hessian)
    roots = np.sqrt(curvatures[curvatures > 1e-9 * curvatures[-1]])
    low, high = roots[0], roots[-1]
    step_size, momentum = 4 / (low + high) ** 2, ((high - low) / (high + low)) ** 2
    return Descent.gradient(step_size, momentum=momentum)


def _map_descent(law, weight):
    seen = law.matrix @ weight / NOISE_STD
    return _heavy_ball(seen.T @ seen + np.eye(weight.shape[1]))


def _consistency_map(law, prior, sigma):
    """f(x, sigma) = m + F (x - m) of a Gaussian."""
    values, vectors = np.linalg.eigh(law.covariance)
    root = np.sqrt((values + prior.sigma_min**2) / (values + sigma**2))
    return vectors * root @ vectors.T


def _generator(law, prior, sigma):
    """G(z) = W z + b of consistency sampling, with all noises in z."""
    first = _consistency_map(law, prior, sigma[0])
    weight, offset = sigma[0] * first, law.mean - first @ law.mean
    for level in sigma[1:]:
        again = _consistency_map(law, prior, level)
        fresh = np.sqrt(level**2 - prior.sigma_min**2) * again
        weight = np.hstack([again @ weight, fresh])
        offset = law.mean + again @ (offset - law.mean)
    return weight, offset


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sigma", [(4.0,), (4.0, 1.5)])
def test_csgm_finds_the_posterior_mean_of_a_linear_generator(sigma):
    """x = W z + b with z ~ N(0, I): the result is E[x | y] under N(b, W W^T)."""
    law = bed()
    prior = GaussianConsistencyPrior(gaussian=law.prior(), sigma_min=0.1)
    weight, offset = _generator(law, prior, sigma)
    solver = ConsistencyCSGM(
        sigma=jnp.asarray(sigma), num_steps=300, descent=_map_descent(law, weight)
    )
    found = solve(KEY, law.problem(), prior, solver)
    linear = GaussianPrior.from_moments(offset, weight @ weight.T)
    posterior = linear.posterior(law.y, law.matrix, NOISE_STD)
    np.testing.assert_allclose(found.x, posterior.mean, **EXACT64)
    assert found.stats.nfe_fwd == 2 * len(sigma) * 301

    # And its latents, by the normal equations.
    pull = weight.T @ law.matrix.T / NOISE_STD**2
    system = pull @ law.matrix @ weight + np.eye(weight.shape[1])
    z = np.linalg.solve(system, pull @ (law.y - law.matrix @ offset))
    np.testing.assert_allclose(found.x, weight @ z + offset, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_one_step_csgm_tends_to_the_exact_posterior_mean():
    law = bed()
    exact = law.prior().posterior(law.y, law.matrix, NOISE_STD).mean
    gaps = []
    for sigma_max in (20.0, 200.0):
        prior = GaussianConsistencyPrior(
            gaussian=law.prior(), sigma_min=1e-6, sigma_max=sigma_max
        )
        weight, _ = _generator(law, prior, (sigma_max,))
        solver = ConsistencyCSGM.one_step(
            prior, num_steps=300, num_restarts=1, descent=_map_descent(law, weight)
        )
        gaps.append(np.max(np.abs(solve(KEY, law.problem(), prior, solver).x - exact)))
    # The mean is off by m s / sigma_max.
    assert gaps[0] < 0.1
    np.testing.assert_allclose(gaps[0] / gaps[1], 10, rtol=0.1)


def _sampler_map(law, grid):
    """R(z) = c + F z: the product of the Euler factors, per eigen-direction."""
    values, vectors = np.linalg.eigh(law.covariance)
    sigma = np.asarray(grid.sigma)
    now, next = sigma[:-1, None], sigma[1:, None]
    factors = np.prod((values + now * next) / (values + now**2), axis=0)
    start = np.sqrt(1 + sigma[0] ** 2)
    slope = vectors * factors @ vectors.T
    return start * slope, law.mean - slope @ law.mean


@pytest.mark.usefixtures("x64")
def test_dmplug_interpolates_at_the_least_distance_from_its_start():
    """Noise is fitted exactly; what is not measured stays as it was drawn."""
    law, grid = bed(), NoiseGrid.from_sigmas([2.0, 0.7, 0.2])
    slope, offset = _sampler_map(law, grid)
    seen = law.matrix @ slope
    descent = _heavy_ball(2 / law.y.size * seen.T @ seen)
    solver = DMPlug(
        grid=grid,
        num_steps=400,
        descent=descent,
        stopping=LastIterate(),
        reverse=Euler(),
    )
    found = solve(KEY, law.problem(), law.prior(), solver).x
    start = jax.random.normal(jax.random.split(KEY)[0], (1, SIZE))[0]
    z = start + np.linalg.pinv(seen) @ (law.y - law.matrix @ (slope @ start + offset))
    np.testing.assert_allclose(found, slope @ z + offset, **EXACT64)
    np.testing.assert_allclose(law.matrix @ np.asarray(found), law.y, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_sampler_csgm_is_the_map_estimate_of_the_same_map():
    law, grid = bed(), NoiseGrid.from_sigmas([2.0, 0.7, 0.2])
    slope, offset = _sampler_map(law, grid)
    solver = SamplerCSGM(grid=grid, num_steps=300, descent=_map_descent(law, slope))
    found = solve(KEY, law.problem(), law.prior(), solver).x
    linear = GaussianPrior.from_moments(offset, slope @ slope.T)
    expected = linear.posterior(law.y, law.matrix, NOISE_STD).mean
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_gradient_through_the_sampler_against_finite_differences():
    law = bed()
    solver = DMPlug(grid=NoiseGrid.from_sigmas([2.0, 0.7, 0.2]))
    cost = solver.cost(law.problem())

    prior = mixture()

    @jax.jit
    def value(z):
        return cost(solver.generate(prior, z))

    z = jnp.linspace(-0.3, 0.2, SIZE)
    assert jnp.max(jnp.abs(solver.generate(prior, z))) < 1  # no clipping
    steps = 1e-5 * jnp.eye(SIZE)
    expected = jax.vmap(lambda d: (value(z + d) - value(z - d)) / 2e-5)(steps)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(z), expected, **FD64)


@pytest.mark.usefixtures("x64")
def test_the_restart_with_the_smallest_value_is_returned():
    law = bed()
    prior = GaussianConsistencyPrior(gaussian=law.prior())
    solver = ConsistencyCSGM.one_step(prior, penalty=shell_penalty)
    z = jax.random.normal(KEY, (3, 1, SIZE))
    carry = LatentCarry(z=z, descent=(), memory=())
    signals = [np.asarray(solver.generate(prior, each)) for each in z]
    values = []
    for each, x in zip(np.asarray(z), signals, strict=True):
        misfit = np.sum((law.matrix @ x - law.y) ** 2) / (2 * NOISE_STD**2)
        values.append(misfit + (np.sum(each**2) - SIZE) ** 2 / (2 * SIZE))
    found = solver.finalize(carry, law.problem(), prior)
    np.testing.assert_allclose(found, signals[np.argmin(values)], **EXACT64)


def _stopped_by_hand(xs, window, patience):
    smallest, best = np.inf, window - 1
    for k in range(window - 1, len(xs)):
        recent = xs[k - window + 1 : k + 1]
        variance = np.mean(np.sum((recent - recent.mean(0)) ** 2, axis=1))
        if variance < smallest:
            smallest, best = variance, k
        elif k - best >= patience:
            break
    return best


def _shown(rule, xs):
    """The index of the iterate that the rule takes of those it is shown."""
    memory = rule.init(jnp.zeros(()), jnp.zeros(SIZE))

    def body(memory, at):
        return rule.update(memory, *at), None

    indices = jnp.arange(len(xs), dtype=float)
    memory, _ = jax.lax.scan(body, memory, (indices, jnp.asarray(xs)))
    return rule.choose(memory, jnp.asarray(-1.0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("patience", [3, 50])
def test_moving_variance(patience):
    """Settles, moves on to fit the noise, and settles there: patience decides."""
    settling, again = np.geomspace(1, 0.01, 12), np.geomspace(1e-3, 1e-4, 12)
    steps = np.concatenate([settling, [0.5] * 8, again])
    xs = np.cumsum(steps)[:, None] * np.ones((1, SIZE))
    expected = _stopped_by_hand(xs, 4, patience)
    assert _shown(MovingVariance(window=4, patience=patience), xs) == expected
    assert (expected < 20) == (patience == 3)


def test_too_few_iterates_for_the_window():
    xs = np.arange(3.0, dtype=np.float32)[:, None] * np.ones((1, SIZE), np.float32)
    assert _shown(MovingVariance(window=4), xs) == 2


def test_stopping_selects_the_result():
    """The result is made of the unknowns remembered, not of the last ones."""
    rule = MovingVariance(window=2)
    solver = DMPlug(grid=NoiseGrid.from_sigmas([2.0, 0.2]), stopping=rule)
    law, last, kept = bed(), jnp.ones((1, SIZE)), jnp.linspace(-1.0, 1.0, SIZE)
    memory = jax.vmap(rule.init)(kept[None], jnp.zeros((1, SIZE)))
    carry = LatentCarry(z=last, descent=(), memory=memory)
    found = solver.finalize(carry, law.problem(), law.prior())
    expected = solver.generate(law.prior(), kept)
    np.testing.assert_allclose(found, expected, **EXACT32)
    assert jnp.max(jnp.abs(found - solver.generate(law.prior(), last[0]))) > 0.1


def test_released_settings():
    solver = DMPlug.released_code("random_inpainting")
    rate = solver.descent.hyperparams["learning_rate"]
    assert (solver.num_steps, rate) == (5000, 0.01)
    assert isinstance(solver.stopping, LastIterate)
    assert list(np.asarray(three_levels().time)) == [666, 333, 0, -1]
    assert DMPlug.default().grid.num_steps == 3
