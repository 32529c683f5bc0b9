"""Every solver against the bare network calls that it makes, and its compile time.

A solve of `steps` steps, or of its own number if that takes fewer calls, is compared
with scans of as many forwards and pull-backs, for the same number of particles, in the
same process: `over_bare_calls` is what the arithmetic around the network costs, and
checking the inputs and starting the program. Compile times do not depend on the steps.
With `--batch`, so many examples are solved together and compared with calls of a batch.
"""

import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

import diffctl
from diffctl.cli.solver_table import SOLVERS, SolverChoice
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Request
from diffctl.core import Solver
from diffctl.host import Count
from experiments.common import measured
from experiments.common.bare_calls import bare_calls
from experiments.common.solving import count_calls
from experiments.common.timing import interleaved

_TASK = "super_resolution_x4"


@dataclass
class Bench:
    """What to measure; times are medians of `repeats` interleaved runs.

    Attributes:
        repeats: runs of each.
        steps: levels or iterations, if a solver's own are more.
        solvers: `diffctl list` names them.
        batch: examples that are solved together.
    """

    repeats: Count = 5
    steps: Count = 50
    solvers: tuple[str, ...] = tuple(SOLVERS)
    batch: Count = 1


def measure(bench: Bench) -> dict[str, Any]:
    """Return compile seconds, calls, seconds and ratio of every solver."""
    prior = diffctl.assets.digits_prior()
    images, _ = diffctl.assets.test_digits()
    request = Request(shape=prior.shape, key=jax.random.key(0), image=images[0])
    problem = TASKS[_TASK].pose(request).problem
    return {name: _solver(name, problem, prior, bench) for name in bench.solvers}


def _solver(name: str, problem: Any, prior: Any, bench: Bench) -> dict[str, Any]:
    choice = SOLVERS[name]
    solver = _short(choice, prior, bench.steps)
    solve: Any = diffctl.solve
    if bench.batch > 1:
        solve = diffctl.solve_batch
        problem = replace(problem, y=jnp.repeat(problem.y[None], bench.batch, axis=0))
    args = (jax.random.key(0), problem, choice.adapt(prior), solver)
    started = time.perf_counter()
    stats = jax.block_until_ready(solve(*args)).stats
    first = time.perf_counter() - started
    forwards, vjps = float(jnp.mean(stats.nfe_fwd)), float(jnp.mean(stats.nvjp))
    runs: dict[str, Any] = {"solve": (solve, args)}
    width = _width(solver)
    if forwards:
        runs |= _bare(prior, width * bench.batch, bench.steps)
    times = interleaved(runs, bench.repeats)
    found = {"forwards": forwards, "vjps": vjps, "seconds": times["solve"]}
    found["compile_seconds"] = first - times["solve"]
    if forwards:
        calls = bench.steps * width
        forward, pair = times["forward"] / calls, times["pair"] / calls
        own = (forwards - vjps) * forward + vjps * pair
        found["over_bare_calls"] = times["solve"] / own
    return found


def _short(choice: SolverChoice, prior: Any, steps: int) -> Solver:
    solvers = [choice.build(_TASK, number) for number in (None, steps)]
    return min(solvers, key=lambda solver: count_calls(solver, choice.adapt).calls)


def _width(solver: Any) -> int:
    """Return how many images the solver hands to the network at the same time."""
    several = ("num_particles", "num_restarts")
    return next((getattr(solver, n) for n in several if hasattr(solver, n)), 1)


def _bare(prior: Any, width: int, steps: int) -> dict[str, Any]:
    """Return scans of forwards and of forwards with a pull-back, `width` at a time."""
    forward, pair = bare_calls(prior, steps, 1)
    x = jax.random.normal(jax.random.key(1), (width, *prior.shape))
    return {
        "forward": (jax.jit(jax.vmap(forward, (None, 0))), (prior, x)),
        "pair": (jax.jit(jax.vmap(pair, (None, 0, 0))), (prior, x, x)),
    }


if __name__ == "__main__":
    sys.exit(measured("bench.solvers", Bench, measure))
