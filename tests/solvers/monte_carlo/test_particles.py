"""The particle loop: what it returns, refuses and forecasts."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import DDIM, AncestralLearned, Euler, sample
from diffctl.operators import Categorical
from diffctl.solvers import solve
from diffctl.solvers.monte_carlo import memory
from diffctl.solvers.monte_carlo.ddsmc import DDSMC
from diffctl.solvers.monte_carlo.memory import forecast_memory
from diffctl.solvers.monte_carlo.particles import Particles, particles
from diffctl.solvers.monte_carlo.tds import TDS
from diffctl.solvers.monte_carlo.twists import PlainTwist
from tests.solvers.bed import SIZE, bed, grid, mixture
from tests.tolerances import REORDER32, stat

KEY = jax.random.key(4)


def _ddsmc(**changes):
    return DDSMC(**({"grid": grid(), "num_particles": 8} | changes))


def _arguments():
    return bed().problem(), mixture()


def test_the_reconstruction_is_one_of_the_particles():
    found = particles(KEY, *_arguments(), _ddsmc())
    assert found.x.shape == (8, SIZE)
    solution = solve(KEY, *_arguments(), _ddsmc())
    chex.assert_trees_all_close(found.draw(), solution.x, **REORDER32)
    assert jnp.min(jnp.abs(found.x - solution.x[None, :]).max(axis=1)) < 1e-4


def test_particles_are_drawn_by_weight():
    weights = jnp.asarray([0.1, 0.6, 0.3])
    picks = jax.random.uniform(KEY, (4000,))

    def draw(pick):
        return Particles(
            x=jnp.arange(3.0),
            log_weights=jnp.log(weights) - 50,
            owed=jnp.zeros(3),
            pick=pick,
        ).draw()

    share = jnp.mean(jax.vmap(draw)(picks)[:, None] == jnp.arange(3.0)[None, :], axis=0)
    np.testing.assert_allclose(share, weights, atol=stat(4000) / 2)


def test_chunks_do_not_change_the_particles():
    problem, prior = _arguments()
    whole, chunked = (
        particles(KEY, problem, prior, _ddsmc(chunk_size=size)) for size in (None, 3)
    )
    chex.assert_trees_all_close(chunked, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_without_data_they_sample_the_model():
    """One unguided particle follows the unconditional reverse process."""
    problem, prior = _arguments()
    solver = TDS(
        grid=grid(),
        num_particles=1,
        guidance_scale=0.0,
        twist=PlainTwist(),
        reverse=DDIM(eta=1.0),
    )
    keys = jax.random.split(KEY, 2000)
    found = jax.vmap(lambda k: solve(k, problem, prior, solver).x)(keys)
    free = jax.vmap(lambda k: sample(k, prior, grid(), DDIM(eta=1.0)))(keys)
    for moment in (jnp.mean, jnp.std):
        pair = [moment(x, axis=0) for x in (found, free)]
        # The starts differ by the unit variance of the signal beside sigma = 6.
        np.testing.assert_allclose(*pair, atol=stat(2000) + 0.02)


def test_more_particles_than_memory_are_refused(monkeypatch):
    problem, prior = _arguments()
    with pytest.raises(ValueError, match="Reduce num_particles"):
        solve(KEY, problem, prior, _ddsmc(num_particles=10**10))
    needed = forecast_memory(problem, prior, _ddsmc())
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"8 particles of shape .4,., 8 at a time"):
        solve(KEY, problem, prior, _ddsmc())
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    assert solve(KEY, problem, prior, _ddsmc()).status == 0


def test_the_forecast_follows_particles_and_chunks():
    problem, prior = _arguments()
    few = forecast_memory(problem, prior, _ddsmc(num_particles=1000))
    many = forecast_memory(problem, prior, _ddsmc(num_particles=4000))
    chunked = forecast_memory(
        problem, prior, _ddsmc(num_particles=4000, chunk_size=100)
    )
    assert 3.5 < many / few < 5
    assert chunked < many


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (_ddsmc(reverse=Euler()), TypeError, "Euler is deterministic"),
        (_ddsmc(reverse=AncestralLearned()), TypeError, "singular directions"),
        (_ddsmc(num_particles=0), ValueError, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(solver, error, message):
    with pytest.raises(error, match=message):
        solve(KEY, *_arguments(), solver)


def test_a_twist_says_what_it_cannot_evaluate():
    problem, prior = _arguments()
    problem = dataclasses.replace(problem, noise=Categorical())
    with pytest.raises(TypeError, match=r"IsotropicTwist needs a WhiteNoise.*PlainTw"):
        TDS(grid=grid(), num_particles=2).check(problem, prior)
