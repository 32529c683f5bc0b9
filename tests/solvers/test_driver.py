"""The driver: records, refusals, early ends, progress, and keys used once."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import Calls, LearnedVariancePrior, Solver, Status, StepTrace
from diffctl.diffusion import AncestralLearned
from diffctl.operators import FunctionOperator, GaussianNoise, Problem, SpectralOperator
from diffctl.priors import Quadratic
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import (
    ADMM,
    DPS,
    PiGDM,
    check,
    listen,
    solve,
    solve_batch,
    solve_stepwise,
)
from diffctl.solvers.driver import run
from tests.solvers.bed import SIZE, bed, grid, mixture
from tests.tolerances import REORDER32

KEY = jax.random.key(13)


def _arguments(solver=None):
    return bed().problem(), mixture(), solver or DPS(grid=grid(4))


def _keep_state(carry, trace):
    return carry


def test_record_stacks_what_it_returns():
    solution = solve(KEY, *_arguments(), record=_keep_state)
    assert solution.trace.shape == (4, SIZE)
    chex.assert_trees_all_equal(solution.trace[-1], solution.x)
    assert solve(KEY, *_arguments()).trace is None


def test_bad_measurements_are_refused_at_the_door():
    problem, prior, solver = _arguments()
    spoiled = dataclasses.replace(problem, y=problem.y.at[0].set(jnp.nan))
    for entry in (
        lambda: solve(KEY, spoiled, prior, solver),
        lambda: solve_stepwise(KEY, spoiled, prior, solver, on_step=lambda _: None),
    ):
        with pytest.raises(ValueError, match="1 NaN or infinite entries"):
            entry()
    batch = dataclasses.replace(problem, y=problem.y[None])
    with pytest.raises(ValueError, match="use solve_batch"):
        solve(KEY, batch, prior, solver)


def _square(x):
    return x**2


def test_a_missing_capability_names_solvers_that_do_without():
    problem, prior, _ = _arguments()

    class NeedsSpectrum(DPS):
        requires = (SpectralOperator, LearnedVariancePrior)

    operator = FunctionOperator.create(_square, (SIZE,))
    nonlinear = Problem(y=jnp.ones(SIZE), operator=operator, noise=GaussianNoise(std=1))
    solver = NeedsSpectrum(grid=grid(3))
    message = (
        "NeedsSpectrum needs a SpectralOperator as operator; FunctionOperator is not "
        r"one. The nearest that can is DPS; so can DAPS, .* and \d+ more."
    )
    with pytest.raises(TypeError, match=message):
        solve(KEY, nonlinear, prior, solver)
    with pytest.raises(TypeError, match="LearnedVariancePrior as prior"):
        solve(KEY, problem, prior, solver)
    learned = DPS(grid=grid(3), reverse=AncestralLearned())
    with pytest.raises(TypeError, match="predicts no variance"):
        solve(KEY, problem, prior, learned)


HUGE = {
    "dps": (mixture, DPS(grid=grid(4))),
    "pigdm": (mixture, PiGDM(grid=grid(4))),
    "admm": (lambda: Quadratic.create((SIZE,), 1.0), ADMM(num_steps=4)),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_misfit_that_is_infinite_is_a_status(name):
    """Finite measurements whose square is not."""
    prior, solver = HUGE[name]
    problem = dataclasses.replace(bed().problem(), y=jnp.full(3, 1e20))
    solution = solve(KEY, problem, prior(), solver)
    assert solution.status == Status.NONFINITE
    assert jnp.all(jnp.isfinite(solution.x))
    with pytest.raises(FloatingPointError, match="1 of 1 examples failed"):
        check(solution)


@pytree_dataclass
class _Counts(Solver):
    """Counts its steps, with misfits that are given."""

    misfits: jax.Array

    def init(self, key, problem, prior):
        return jnp.zeros(prior.shape), self.misfits

    def step(self, carry, x, problem, prior):
        return carry + 1, StepTrace(misfit=x, calls=Calls())

    def finalize(self, carry, problem, prior):
        return carry


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
def test_a_misfit_on_the_way_is_a_status(bad):
    """The step before is the last that is taken, although all iterates are finite."""
    problem, prior, _ = _arguments()
    solver = _Counts(misfits=jnp.array([3.0, 2.0, bad, 1.0]))
    solution = run(KEY, problem, prior, solver)
    assert solution.status == Status.NONFINITE
    chex.assert_trees_all_equal(solution.x, jnp.full(SIZE, 2.0))
    fine = run(KEY, problem, prior, _Counts(misfits=jnp.ones(4)))
    assert fine.status == Status.OK


def test_an_early_end_is_no_failure():
    """Misfits of steps not taken are NaN, which says nothing about those taken."""
    solution = solve_stepwise(KEY, *_arguments(), on_step=lambda state: True)
    assert jnp.sum(jnp.isnan(solution.stats.misfit)) == 3
    assert solution.status == Status.OK


def test_a_step_that_overflows_is_not_taken():
    """The guidance explodes at the third step: the second state is returned."""
    problem, prior, solver = _arguments()
    sigma = solver.grid.sigma
    assert jnp.all(jnp.isfinite(sigma))

    def blow_up(reverse, now, next):
        return jnp.where(now.sigma > 0.9 * sigma[2], 1.0, jnp.inf)

    broken = dataclasses.replace(solver, unit=blow_up)
    solution = solve(KEY, problem, prior, broken, record=_keep_state)
    assert solution.status == Status.NONFINITE
    third_good = solution.trace[2]
    chex.assert_trees_all_equal(solution.x, third_good)
    chex.assert_tree_all_finite(solution.x)


def test_an_early_end_leaves_the_rest_open():
    problem, prior, solver = _arguments()
    seen = []

    def stop_after_two(state):
        seen.append(np.asarray(state.carry))
        return len(seen) == 2

    solution = solve_stepwise(KEY, problem, prior, solver, on_step=stop_after_two)
    assert int(solution.carry.step) == 2
    chex.assert_trees_all_equal(solution.x, seen[-1])
    np.testing.assert_array_equal(np.isnan(solution.stats.misfit), [0, 0, 1, 1])
    assert (solution.stats.nfe_fwd, solution.stats.nvjp) == (2, 2)
    whole = solve_stepwise(
        KEY, problem, prior, solver, on_step=lambda _: None, resume=solution.carry
    )
    expected = solve(KEY, problem, prior, solver)
    chex.assert_trees_all_close(whole.x, expected.x, **REORDER32)
    chex.assert_trees_all_close(whole.stats, expected.stats, **REORDER32)


def test_listeners_hear_every_step_once():
    problem, prior, solver = _arguments()
    heard, also = [], []
    expected = [(i, 4) for i in range(1, 5)]
    with listen(lambda *at: heard.append(at)), listen(lambda *at: also.append(at)):
        solve(KEY, problem, prior, solver)
    assert sorted(heard) == sorted(also) == expected
    heard.clear()
    problems = dataclasses.replace(problem, y=jnp.stack([problem.y] * 4))
    with listen(lambda *at: heard.append(at)):
        solve_batch(KEY, problems, prior, solver, chunk_size=2)
    assert sorted(heard) == sorted(2 * expected)


def test_nobody_listens_nothing_is_called():
    heard = []
    with listen(lambda *at: heard.append(at)):
        pass
    solve(KEY, *_arguments())
    assert not heard
    lowered = jax.jit(solve).lower(KEY, *_arguments()).as_text()
    assert "callback" not in lowered
