"""Chunks of problems solved by programs that are compiled beforehand."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.cli.devices import mesh_for
from diffctl.cli.solver_table import as_it_is
from diffctl.cli.timing import Timed
from diffctl.core import Solver
from diffctl.numerics.batching import shared_out
from diffctl.operators import GaussianNoise, Identity, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import solve, solve_batch
from experiments.common.bare_calls import bare_calls
from experiments.common.timing import seconds

MEASURED: Any = Problem(y=0, operator=None, noise=None)  # type: ignore[arg-type]
DRAWN: Any = Problem(y=0, operator=0, noise=None)  # type: ignore[arg-type]

_LEVELS = 10
_COUNTING_SHAPE = (16, 16, 1)
_COUNTED: dict[Any, "Cost"] = {}


@dataclass(frozen=True)
class Examples:
    """Problems with a batch axis, and how their solutions are judged.

    Attributes:
        problems: n of them.
        axes: which leaves have the batch axis: `MEASURED` or `DRAWN`.
        score: reconstructions (n, *shape) -> numbers (n,) by name.
    """

    problems: Problem
    axes: Any
    score: Callable[[jax.Array], dict[str, jax.Array]]


@dataclass(frozen=True)
class Programs:
    """Compiled solves, one for each structure and shape of their arguments."""

    _compiled: dict[Any, Any] = field(default_factory=dict)

    def solve(
        self,
        key: jax.Array,
        examples: Examples,
        prior: Any,
        solver: Solver,
        ids: jax.Array,
    ) -> Timed:
        """Return the solution of a chunk; `running` is the compiled program's time."""
        args = (key, examples.problems, prior, solver, ids)
        leaves, structure = jax.tree.flatten(args)
        avals = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        kind = (structure, avals, repr(examples.axes))
        started = time.perf_counter()
        if kind not in self._compiled:
            self._compiled[kind] = _compile(examples.axes, args)
        ready = time.perf_counter()
        result = jax.block_until_ready(self._compiled[kind](*args))
        running = time.perf_counter() - ready
        return Timed(result=result, compiling=ready - started, running=running)


@dataclass(frozen=True)
class Cost:
    """Network calls of a solve per image."""

    forwards: int
    vjps: int

    @property
    def calls(self) -> int:
        """Forwards and VJPs."""
        return self.forwards + self.vjps

    def seconds(self, per_call: tuple[float, float]) -> float:
        """Return the expected time, given seconds of a forward and of a VJP."""
        return self.forwards * per_call[0] + self.vjps * per_call[1]


def count_calls(solver: Solver, adapt: Callable[[Any], Any] = as_it_is) -> Cost:
    """Return what a solve costs, by the solver's own counters.

    They are read off a run on a prior that costs nothing, and so exact for solvers
    whose number of calls does not depend on the data. Solvers of one structure, whose
    settings differ in nothing but numbers, are counted once.

    Args:
        solver: with its settings.
        adapt: diffusion prior -> the prior that the solver takes.
    """
    leaves, structure = jax.tree.flatten(solver)
    kind = (structure, tuple(jnp.shape(leaf) for leaf in leaves), adapt)
    if kind not in _COUNTED:
        _COUNTED[kind] = _count(solver, adapt)
    return _COUNTED[kind]


def _count(solver: Solver, adapt: Callable[[Any], Any]) -> Cost:
    size = math.prod(_COUNTING_SHAPE)
    prior = GaussianPrior.from_moments(jnp.zeros(_COUNTING_SHAPE), jnp.eye(size))
    problem = Problem(
        y=jnp.zeros(_COUNTING_SHAPE),
        operator=Identity(shape=_COUNTING_SHAPE),
        noise=GaussianNoise(std=0.05),
    )
    stats = solve(jax.random.key(0), problem, adapt(prior), solver).stats
    return Cost(forwards=int(stats.nfe_fwd), vjps=int(stats.nvjp))


def seconds_per_call(prior: Any, chunk: int) -> tuple[float, float]:
    """Return seconds of a forward and of a VJP per image, in batches of `chunk`.

    The images are shared out among the devices as those of a solve are. Medians of
    three scans of ten calls, after compilation.
    """
    mesh = mesh_for(chunk)
    size = chunk if mesh is None else chunk - chunk % mesh.size
    x = jax.random.normal(jax.random.key(0), (size, *prior.shape))
    forward, pair = bare_calls(prior, _LEVELS, 1)
    calls = _LEVELS * size

    def timed(f: Callable[..., Any]) -> float:
        batched = jax.vmap(f, in_axes=(None, 0))
        compiled = jax.jit(shared_out(batched, mesh, num_shared=1))
        return seconds(compiled, prior, x, repeats=3) / calls

    first, both = timed(forward), timed(lambda prior, x: pair(prior, x, x))
    return first, max(both - first, 0.0)


def _compile(axes: Any, args: tuple[Any, ...]) -> Any:
    mesh = mesh_for(len(args[-1]))

    def solve_all(key: Any, problems: Any, prior: Any, solver: Any, ids: Any) -> Any:
        options = {"axes": axes, "ids": ids, "mesh": mesh}
        return solve_batch(key, problems, prior, solver, **options)

    return jax.jit(solve_all).lower(*args).compile()
