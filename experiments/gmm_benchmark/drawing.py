"""How samples are drawn: by laws that know the answer, or by a solver of the library.

A solver is run once for each sample, with a key of its own, with two exceptions.
Particle solvers would spend N particles on a sample; here whole ensembles are kept, as
many as are needed, so that samples cost the same calls as those of other solvers but
those of one ensemble depend on each other. A point estimate is computed once, and
stands for all of the samples.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.cli.devices import mesh_for
from diffctl.cli.timing import Timed, timed
from diffctl.core import Calls, Solver
from diffctl.diffusion import NoiseGrid, geometric
from diffctl.operators import Problem
from diffctl.solvers import solve_batch
from diffctl.solvers.driver import count_steps
from diffctl.solvers.monte_carlo.particles import ParticleSolver
from experiments.gmm_benchmark.ensembles import EqualWeights
from experiments.gmm_benchmark.problems import Posed, spread

LOWEST = 0.02
# What a step of a solver computes besides, in drawn vectors, as measured at d = 800.
_ARITHMETIC = 0.5


@dataclass(frozen=True)
class Draws:
    """Samples and what they cost.

    Attributes:
        samples: (n, d).
        failed: solves that met a NaN.
        forwards: network calls for each sample.
        vjps: of the network for each sample.
        running: seconds, compilation excluded.
        compiling: seconds.
    """

    samples: np.ndarray
    failed: int
    forwards: float
    vjps: float
    running: float
    compiling: float


@dataclass(frozen=True)
class Effort:
    """What a sample is expected to cost.

    Attributes:
        forwards: of the network.
        vjps: of the network.
        normals: standard normal vectors of the size of a signal.
    """

    forwards: float = 0.0
    vjps: float = 0.0
    normals: float = 1.0


class Sampler(abc.ABC):
    """A way to draw samples that are meant to be of the posterior."""

    summary: str

    @abc.abstractmethod
    def draw(self, key: jax.Array, posed: Posed, num_samples: int) -> Draws:
        """Draw samples; those of one key are always the same."""

    @abc.abstractmethod
    def effort(self, posed: Posed, num_samples: int) -> Effort:
        """Return what each of the samples costs, without computing anything."""

    @abc.abstractmethod
    def settings(self, size: int) -> Any:
        """Return a solver or a name: what decides the samples, for d = `size`."""


@dataclass(frozen=True)
class Direct(Sampler):
    """Independent draws by `law(posed, key, n)`, (n, d)."""

    summary: str
    law: Callable[[Posed, jax.Array, int], jax.Array]

    def draw(self, key: jax.Array, posed: Posed, num_samples: int) -> Draws:
        spent = timed(lambda: self.law(posed, key, num_samples))
        samples = np.asarray(spent.result)
        return Draws(samples, 0, 0.0, 0.0, spent.running, spent.compiling)

    def effort(self, posed: Posed, num_samples: int) -> Effort:
        return Effort()

    def settings(self, size: int) -> Any:
        return self.law.__name__


@dataclass(frozen=True)
class BySolver(Sampler):
    """Draws by a solver.

    Attributes:
        summary: one line.
        build: `build(grid, d)`.
        num_levels: of the grid.
        normals: normal vectors drawn for each network call.
        point: whether the result is the same for all keys.
    """

    summary: str
    build: Callable[[NoiseGrid, int], Solver]
    num_levels: int = 100
    normals: float = 1.0
    point: bool = False

    def settings(self, size: int) -> Solver:
        return self.build(noise_levels(self.num_levels, size), size)

    def draw(self, key: jax.Array, posed: Posed, num_samples: int) -> Draws:
        solver, count = self._plan(posed, num_samples)
        given = posed.problem
        problems = Problem(
            y=jnp.broadcast_to(given.y[None], (count, *given.y.shape)),
            operator=given.operator,
            noise=given.noise,
        )
        mesh = mesh_for(count)
        spent = timed(
            lambda: solve_batch(key, problems, posed.prior, solver, mesh=mesh)
        )
        return _draws(spent, num_samples)

    def effort(self, posed: Posed, num_samples: int) -> Effort:
        if self.point:  # one solve is nothing beside those of other samplers
            return Effort(normals=0.0)
        solver, count = self._plan(posed, num_samples)
        calls, share = traced_calls(solver, posed), count / num_samples
        forwards = share * calls.fwd
        normals = (self.normals + _ARITHMETIC) * forwards
        return Effort(forwards, share * calls.vjp, normals)

    def _plan(self, posed: Posed, num_samples: int) -> tuple[Solver, int]:
        """Return the solver to be run, and how often."""
        solver = self.settings(posed.prior.shape[0])
        if self.point:
            return solver, 1
        if not isinstance(solver, ParticleSolver):
            return solver, num_samples
        count = math.ceil(num_samples / solver.num_particles)
        num_draws = math.ceil(num_samples / count)
        return EqualWeights(solver=solver, num_draws=num_draws), count


def noise_levels(num_levels: int, size: int) -> NoiseGrid:
    """Return levels equally spaced in log(sigma), from far above the means down.

    The highest is ten times the spread of the means, which grows with the root of d:
    solvers start from N(0, (1 + sigma^2) I), which then agrees with noisy signals to a
    per cent. The lowest is small beside clusters of width 1.
    """
    return geometric(num_levels, LOWEST, 10 * spread(size))


def traced_calls(solver: Solver, posed: Posed) -> Calls:
    """Return the network calls of a solve, without computing anything.

    They are read off a trace of one step; for solvers that count steps in plain numbers
    and whose steps all cost the same.
    """
    found: list[Calls] = []

    def one_step(key: jax.Array) -> Any:
        carry, xs = solver.init(key, posed.problem, posed.prior)
        first = jax.tree.map(lambda leaf: leaf[0], xs)
        carry, trace = solver.step(carry, first, posed.problem, posed.prior)
        found.append(jax.tree.map(lambda count: count * count_steps(xs), trace.calls))
        return carry

    jax.eval_shape(one_step, jax.random.key(0))
    outside = solver.calls_outside_steps()
    return jax.tree.map(lambda a, b: int(a + b), found[0], outside)


def _draws(spent: Timed, num_samples: int) -> Draws:
    """Take n samples from the solutions, (solves, d) or (solves, draws, d)."""
    solution, found = spent.result, np.asarray(spent.result.x)
    if found.ndim > 2:
        # First draws of all ensembles, then second ones, ...: what is too much is left
        # out of all of them alike.
        found = found.swapaxes(0, 1).reshape(-1, found.shape[-1])
    if len(found) == 1:
        found = np.repeat(found, num_samples, axis=0)
    return Draws(
        samples=found[:num_samples],
        failed=int(np.count_nonzero(solution.status)),
        forwards=float(np.sum(solution.stats.nfe_fwd)) / num_samples,
        vjps=float(np.sum(solution.stats.nvjp)) / num_samples,
        running=spent.running,
        compiling=spent.compiling,
    )
