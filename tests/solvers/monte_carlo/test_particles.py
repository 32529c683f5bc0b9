"""The particle loop: what it returns, refuses and forecasts."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from diffctl.core import Calls, DiffusionPrior
from diffctl.diffusion import DDIM, AncestralLearned, Estimate, Euler, sample
from diffctl.operators import Categorical
from diffctl.priors import GaussianPrior
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers import InLatentSpace, batch, solve, solve_batch
from diffctl.solvers.monte_carlo import memory
from diffctl.solvers.monte_carlo.ddsmc import DDSMC
from diffctl.solvers.monte_carlo.memory import forecast_memory, group_limit
from diffctl.solvers.monte_carlo.particles import (
    Outlook,
    Particles,
    ParticleSolver,
    WholeEnsemble,
    particles,
)
from diffctl.solvers.monte_carlo.resampling import NeverResample
from diffctl.solvers.monte_carlo.tds import TDS
from diffctl.solvers.monte_carlo.twists import PlainTwist
from tests.contract.cases import latent_gaussian
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


@pytree_dataclass
class StandingStill(ParticleSolver):
    """Every step multiplies the weights by exp(-4096) and by a small share."""

    requires = (object, object)
    calls_of_a_look = Calls(fwd=1)

    @staticmethod
    def share(x):
        return jnp.round(x[0]) / 1024

    def look(self, x, at, problem, prior):
        log_weight = -4096 + self.share(x)
        return Outlook(estimate=Estimate(x0_hat=x), log_weight=log_weight)

    def move(self, x, outlook, at, problem, z):
        return x, jnp.zeros_like(outlook.log_weight)


def test_what_weights_have_in_common_does_not_round_them():
    """Multiples of 1/1024 are exact beside 4096 in float32, not beside 200 of them."""
    levels = grid(200)
    solver = StandingStill(grid=levels, num_particles=16, resampling=NeverResample())
    found = particles(KEY, *_arguments(), solver)
    shares = np.asarray(jax.vmap(solver.share)(found.x), float)
    assert np.ptp(shares) > 0
    expected = levels.num_steps * (shares - shares.max())
    np.testing.assert_allclose(found.log_weights, expected, atol=1e-4)
    evidence = np.log(np.mean(np.exp(expected)))
    evidence += levels.num_steps * (shares.max() - 4096)
    # 200 sums rounded: 1.3e-6 measured.
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=4e-6)
    assert np.max(found.log_weights) == 0


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


class _Checked(Exception):
    """The checks have passed."""


def _stop(*args, **options):
    raise _Checked


@pytest.mark.parametrize(
    ("chunk_size", "num_devices", "at_once"),
    [(None, None, 6), (2, None, 2), (None, 4, 8), (1, 4, 4)],
)
def test_a_batch_needs_the_memory_of_all_that_run_at_once(
    monkeypatch, chunk_size, num_devices, at_once
):
    """On a CPU also of all devices, whose last one is filled up with copies."""
    problem, prior = _arguments()
    problems = dataclasses.replace(problem, y=jnp.tile(problem.y, (6, 1)))
    devices = None if num_devices is None else np.tile(jax.devices(), num_devices)
    mesh = None if devices is None else Mesh(devices, ("data",))
    monkeypatch.setattr(batch, "_solve_batch", _stop)
    needed = forecast_memory(problem, prior, _ddsmc(), at_once)

    def attempt():
        arguments = (KEY, problems, prior, _ddsmc())
        solve_batch(*arguments, chunk_size=chunk_size, mesh=mesh)

    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    with pytest.raises(_Checked):
        attempt()
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=f"for {at_once} examples at a time"):
        attempt()


def test_examples_share_the_prior():
    problem, _ = _arguments()
    heavy = GaussianPrior.from_moments(np.zeros(SIZE), np.eye(SIZE))
    sizes = [forecast_memory(problem, heavy, _ddsmc(), n) for n in (1, 2, 3)]
    leaves = jax.tree.leaves((heavy, _ddsmc()))
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    assert 2 * sizes[0] - sizes[1] == sum(jnp.asarray(leaf).nbytes for leaf in leaves)


def test_solvers_that_wrap_particles_ask_for_their_memory():
    """Also in latent space, and where the whole ensemble is kept."""
    problem, prior = _arguments()
    many = TDS(grid=grid(), num_particles=10**10, twist=PlainTwist())
    latent = latent_gaussian()
    for solver, knowledge in (
        (WholeEnsemble(solver=many), prior),
        (InLatentSpace(inner=many), latent),
    ):
        with pytest.raises(ValueError, match="Reduce num_particles"):
            solver.check_memory(problem, knowledge, 1)


def _control_groups(folder, lines, limits):
    """Write what Linux shows of control groups."""
    for name, text in limits.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    own = folder / "own"
    own.write_text("\n".join(lines) + "\n")
    return folder / "cgroup", own


MAX, V1 = "memory.max", "memory/{}memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("lines", "limits", "expected"),
    [
        (["0::/"], {MAX: 2**30}, 2**30),
        (["0::/"], {MAX: "max"}, math.inf),
        (["0::/job/step"], {f"job/{MAX}": 2**31, f"job/step/{MAX}": "max"}, 2**31),
        (["0::/job"], {MAX: 2**29, f"job/{MAX}": 2**31, f"other/{MAX}": 1}, 2**29),
        (["4:memory:/", "0::/"], {V1.format(""): 2**28}, 2**28),
        (["3:cpu:/", "4:memory:/a/b"], {V1.format("a/b/"): 2**27}, 2**27),
        # A container is told the path that its group has outside of it.
        (["4:memory:/docker/1f"], {V1.format(""): 2**26}, 2**26),
        (["3:cpu,cpuacct:/"], {}, math.inf),
    ],
)
def test_limits_of_containers_and_job_schedulers(tmp_path, lines, limits, expected):
    assert group_limit(*_control_groups(tmp_path, lines, limits)) == expected


def test_the_memory_of_a_machine_is_that_of_its_group(tmp_path, monkeypatch):
    assert group_limit(tmp_path, tmp_path / "no such file") == math.inf
    whole = memory.available_memory()
    monkeypatch.setattr(memory, "group_limit", lambda: 2**20)
    assert memory.available_memory() == 2**20 < whole
    monkeypatch.setattr(memory, "group_limit", lambda: math.inf)
    assert whole <= memory.available_memory() < math.inf


@pytree_dataclass
class _Wide(DiffusionPrior):
    """A network: what one call needs is far more than its input."""

    weights: jax.Array  # (hidden, SIZE)
    shape: tuple[int, ...] = static()

    def denoise(self, x, sigma):
        return jnp.tanh(self.weights @ x) @ self.weights / (1 + sigma)


def test_the_forecast_follows_particles_and_chunks():
    problem, prior = (
        bed().problem(),
        _Wide(weights=jnp.ones((256, SIZE)), shape=(SIZE,)),
    )
    few = forecast_memory(problem, prior, _ddsmc(num_particles=1000))
    many = forecast_memory(problem, prior, _ddsmc(num_particles=4000))
    chunked = forecast_memory(
        problem, prior, _ddsmc(num_particles=4000, chunk_size=100)
    )
    assert 3.5 < many / few < 5
    assert chunked < many / 5


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (_ddsmc(reverse=Euler()), "Euler is deterministic"),
        (_ddsmc(reverse=AncestralLearned()), "singular directions"),
    ],
)
def test_settings_that_cannot_work_are_refused(solver, message):
    with pytest.raises(TypeError, match=message):
        solve(KEY, *_arguments(), solver)


def test_a_twist_says_what_it_cannot_evaluate():
    problem, prior = _arguments()
    problem = dataclasses.replace(problem, noise=Categorical())
    with pytest.raises(TypeError, match=r"IsotropicTwist needs a WhiteNoise.*PlainTw"):
        TDS(grid=grid(), num_particles=2).check(problem, prior)
