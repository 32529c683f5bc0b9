"""MAP in latents, in signals and in both, against linear algebra."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import Descent
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.solvers import DensityMAP, FlowMAP, JointMAP, LatentMAP, solve
from diffctl.solvers.generative.starts import pinv_start, zero_start
from tests.solvers.bed import NOISE_STD, SIZE, bed
from tests.solvers.generative.models import (
    AffineFlow,
    LinearAutoencoder,
    SinhFlow,
    TanhAutoencoder,
    TanhGenerator,
    generator,
    posterior,
    quadratic,
    two_modes,
)
from tests.tolerances import EXACT64

KEY = jax.random.key(21)
# Plain gradient descent with momentum converges to rounding on quadratics.
HEAVY = {"num_steps": 400, "descent": Descent.gradient(0.015, momentum=0.85)}
STIFF = {"num_steps": 1500, "descent": Descent.gradient(0.004, momentum=0.9)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_linear_generator(weight):
    """z* = (W^T A^T A W / s^2 + weight I)^{-1} W^T A^T (y - A b) / s^2."""
    law, prior = bed(), generator()
    found = solve(KEY, law.problem(), prior, LatentMAP(weight=weight, **HEAVY)).x
    w, b = np.asarray(prior.weights), np.asarray(prior.offset)
    seen = law.matrix @ w / NOISE_STD
    system = seen.T @ seen + weight * np.eye(w.shape[1])
    z = np.linalg.solve(system, seen.T @ (law.y - law.matrix @ b) / NOISE_STD)
    np.testing.assert_allclose(found, w @ z + b, **EXACT64)
    if weight == 1.0:
        mean, _ = posterior(law, NOISE_STD, b, w @ w.T)
        np.testing.assert_allclose(found, mean, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("preset", "unit", "c_z"),
    [(LatentMAP.released_mnist, 0.5, 0.1), (LatentMAP.released_celeba, 1.0, 0.001)],
)
def test_the_published_objective_is_the_same_up_to_its_unit(preset, unit, c_z):
    """mean (unit r)^2 + c_z |z|^2 with residuals r on [-1, 1], times a constant."""
    law, prior = bed(), generator(TanhGenerator)
    solver = preset(law.problem())

    def published(z):
        residual = unit * (law.y - law.matrix @ np.asarray(prior.decode(z)))
        return np.mean(residual**2) + c_z * np.sum(z**2)

    latents = np.array([[0.4, -0.2], [-1.0, 0.7], [2.0, 0.1]])
    ours = [solver.objective(z, law.problem(), prior)[0] for z in latents]
    theirs = [published(z) for z in latents]
    factor = law.y.size / (2 * (unit * NOISE_STD) ** 2)
    np.testing.assert_allclose(np.diff(ours), factor * np.diff(theirs), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_without_a_prior_the_null_space_keeps_its_start():
    """One measurement of two latents: the rest of z is where it was drawn."""
    law, prior = bed(), generator()
    row = law.matrix[:1]
    problem = Problem(
        y=jnp.asarray(law.y[:1]),
        operator=DenseMatrix.from_array(jnp.asarray(row)),
        noise=GaussianNoise(std=NOISE_STD),
    )
    ends = []
    for scale in (1.0, 2.0):
        solver = LatentMAP(weight=0.0, start_scale=scale, **HEAVY)
        x = solve(KEY, problem, prior, solver).x
        np.testing.assert_allclose(row @ x, law.y[:1], **EXACT64)
        ends.append(np.linalg.lstsq(prior.weights, x - prior.offset)[0])
    seen = (row @ np.asarray(prior.weights))[0]
    hidden = np.array([-seen[1], seen[0]]) / np.linalg.norm(seen)
    np.testing.assert_allclose(hidden @ ends[1], 2 * hidden @ ends[0], **EXACT64)
    assert abs(hidden @ ends[0]) > 1e-2


@pytest.mark.usefixtures("x64")
def test_the_best_start_wins():
    """The chosen one has the least objective of those that were run alone."""
    law, prior = bed(), generator(TanhGenerator)
    problem, count = law.problem(), 6
    alone = LatentMAP(num_steps=60, descent=Descent.adam(0.05))
    together = dataclasses.replace(alone, num_restarts=count)
    start_key = jax.random.split(KEY)[0]
    starts = [alone.draw(k, problem, prior) for k in jax.random.split(start_key, count)]

    def descend(_, at):
        z, state = at
        gradient = jax.grad(lambda z: alone.objective(z, problem, prior)[0])(z)
        return alone.descent.update(gradient, state, z)

    def run(z):
        start = (z, alone.descent.init(z))
        z, _ = jax.lax.fori_loop(0, alone.num_steps, descend, start)
        return alone.objective(z, problem, prior)[0], prior.decode(z)

    costs, signals = jax.jit(jax.vmap(run))(jnp.stack(starts))
    assert np.ptp(costs) > 0.1, "the starts end in different minima"
    found = solve(KEY, problem, prior, together).x
    # Measured 3e-16; hundreds of steps of two programs may round apart elsewhere.
    np.testing.assert_allclose(found, signals[np.argmin(costs)], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_gradient_through_a_generator_is_that_of_differences():
    law, prior = bed(), generator(TanhGenerator)
    solver, z = LatentMAP(), jnp.asarray([0.4, -0.2])

    @jax.jit
    def objective(z):
        return solver.objective(z, law.problem(), prior)[0]

    step = 1e-5 * jnp.eye(2)
    central = jax.vmap(lambda dz: objective(z + dz) - objective(z - dz))(step) / 2e-5
    np.testing.assert_allclose(jax.grad(objective)(z), central, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alternation", [{"num_inner": 1}, {"num_inner": 3}])
def test_joint_map_of_a_linear_autoencoder(alternation):
    """Its x is the posterior mean of the marginal model N(b, W W^T + g^2 I)."""
    law, prior = bed(), generator(LinearAutoencoder)
    solver = JointMAP(
        num_steps=300, descent=Descent.gradient(0.1, momentum=0.5), **alternation
    )
    found = solve(KEY, law.problem(), prior, solver).x
    w, b = np.asarray(prior.weights), np.asarray(prior.offset)
    mean, _ = posterior(law, NOISE_STD, b, w @ w.T + 0.25 * np.eye(SIZE))
    np.testing.assert_allclose(found, mean, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_alternation_lowers_the_joint_objective():
    law, prior = bed(), generator(TanhAutoencoder)
    problem, solver = law.problem(), JointMAP(descent=Descent.gradient(0.01))

    def body(carry, key):
        x = solver.signal(prior.decode(carry[1]), problem, prior)
        found = jax.value_and_grad(solver.objective)(x, carry[1], problem, prior)
        return solver.step(carry, key, problem, prior)[0], found

    carry = solver.start(KEY, problem, prior)
    _, (costs, slopes) = jax.lax.scan(body, carry, jax.random.split(KEY, 6))
    np.testing.assert_allclose(slopes, np.zeros((6, SIZE)), atol=1e-10)
    assert np.all(np.diff(costs) < 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver",
    [LatentMAP(**STIFF), FlowMAP(**STIFF), DensityMAP(**STIFF)],
    ids=lambda solver: type(solver).__name__,
)
def test_for_an_affine_flow_every_map_is_the_posterior_mean(solver):
    law, prior = bed(), generator(AffineFlow, latent=SIZE)
    found = solve(KEY, law.problem(), prior, solver).x
    m = np.asarray(prior.weights)
    mean, _ = posterior(law, NOISE_STD, np.asarray(prior.offset), m @ m.T)
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_modes_of_a_nonlinear_flow():
    """x = 0.6 sinh(z), y = x + n: two estimators, each on a grid of 1e6 points."""
    scale, y, std = 0.6, 1.1, 0.5
    problem = Problem(
        y=jnp.asarray([y]),
        operator=DenseMatrix.from_array(jnp.eye(1)),
        noise=GaussianNoise(std=std),
    )
    prior = SinhFlow(scale=jnp.asarray([scale]))
    descent = {"num_steps": 500, "descent": Descent.gradient(0.05, momentum=0.5)}
    found = {
        kind: float(solve(KEY, problem, prior, kind(**descent)).x[0])
        for kind in (LatentMAP, FlowMAP, DensityMAP)
    }
    z = np.linspace(-3, 3, 1_000_001)
    x = scale * np.sinh(z)
    plain = (x - y) ** 2 / (2 * std**2) + z**2 / 2
    density = plain + np.log(scale * np.cosh(z))
    # The grid's spacing is 6e-6.
    np.testing.assert_allclose(found[LatentMAP], x[np.argmin(plain)], atol=1e-5)
    np.testing.assert_allclose(found[FlowMAP], x[np.argmin(density)], atol=1e-5)
    np.testing.assert_allclose(found[DensityMAP], found[FlowMAP], **EXACT64)
    assert abs(found[LatentMAP] - found[FlowMAP]) > 0.05


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("start_from", [zero_start, pinv_start])
def test_quadratic_energy(start_from):
    """(w P + A^T A / s^2)^{-1} (w P m + A^T y / s^2)."""
    law, weight = bed(), 0.7
    settings = {"num_steps": 1500, "descent": Descent.gradient(0.015, momentum=0.9)}
    solver = DensityMAP(weight=weight, start_from=start_from, **settings)
    found = solve(KEY, law.problem(), quadratic(law), solver).x
    mean, _ = posterior(law, NOISE_STD, law.mean, law.covariance / weight)
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_multimodal_energy_has_a_mode_for_every_start():
    """All ends are stationary, they differ, and of several starts the best is taken."""
    law, prior = bed(), two_modes()
    problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=3.0))
    solver = DensityMAP(num_steps=300, descent=Descent.gradient(0.03, momentum=0.5))

    @jax.jit
    def judge(x):
        return jax.value_and_grad(lambda x: solver.objective(x, problem, prior)[0])(x)

    keys = jax.random.split(KEY, 6)
    ends = jax.vmap(lambda key: solve(key, problem, prior, solver).x)(keys)
    costs, slopes = jax.vmap(judge)(ends)
    np.testing.assert_allclose(slopes, np.zeros_like(ends), atol=1e-8)
    assert np.ptp(costs) > 0.1
    many = dataclasses.replace(solver, num_restarts=12)
    best, _ = judge(solve(KEY, problem, prior, many).x)
    np.testing.assert_allclose(best, np.min(costs), rtol=1e-8)
