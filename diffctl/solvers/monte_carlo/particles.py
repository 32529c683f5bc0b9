"""Sequential Monte Carlo along a reverse diffusion: the loop that its solvers share.

N particles x_j with weights w_j go down the levels together. For a step, with twisting
functions g (any positive functions; good ones resemble p(y | x)):

1. look     w_j <- w_j * h(x_j)           h: what is known before moving
2. choose   ancestors by w, see `resampling`
3. move     x_j' ~ proposal(. | x_j),  w_j <- w_j * correction(x_j, x_j')

where `h` and the correction multiply to  K(x'|x) g'(x') / (proposal(x'|x) g(x))  on
average over the move, K being the reverse step of the unconditional model, and g is
p(y | x0) on clean signals. Then for every N, without bias,

4. E[mean_j w_j f(x_j)] = E_model[p(y | x0) f(x0)]

with the model that starts from N(0, (1 + sigma_max^2) I) and follows `reverse` down
`grid`. Weighted averages, a ratio of two such, converge at the rate 1 / sqrt(N) to
posterior expectations under that *discretised* model. Solvers that keep factors of
their own in the weights (`PathObservation`, `KnownPath`, `Filter`: see `accounting`)
have these in place of p(y | x0) in (4).
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, Solver, StepTrace
from diffctl.diffusion import Ancestral, Estimate, OneCallStep
from diffctl.numerics.batching import chunked_vmap
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers import driver
from diffctl.solvers.levels import LevelSolver
from diffctl.solvers.monte_carlo.memory import require_memory
from diffctl.solvers.monte_carlo.resampling import (
    ResampleWhenDegenerate,
    Resampling,
    ancestors,
    effective_sample_size,
    log_mean_weight,
    relative_weights,
)
from diffctl.solvers.promises import check_promises
from diffctl.solvers.requirements import check_inputs


@pytree_dataclass
class Particles:
    """Weighted signals. After the last step they represent the posterior."""

    x: jax.Array  # (N, *shape)
    log_weights: jax.Array  # (N,), not normalised, in units of exp(log_unit)
    owed: jax.Array  # (N,) log of factors to be divided out of the weights at the end
    pick: jax.Array  # () uniform in [0, 1): chooses the particle that `draw` returns
    # () what all log weights have in common, apart from which they keep their digits
    log_unit: Any = 0.0

    @property
    def weights(self) -> jax.Array:
        """Normalised weights, (N,); NaN if all are 0."""
        return jax.nn.softmax(self.log_weights)

    @property
    def effective_sample_size(self) -> jax.Array:
        """Number of equally weighted particles that are worth as much, ()."""
        return effective_sample_size(self.log_weights)

    @property
    def log_evidence(self) -> jax.Array:
        """Log of an unbiased estimate of E_model[exp(-misfit(x0))], ().

        Of solvers whose weights satisfy (4) with the likelihood: TDS, DDSMC, and
        MCGdiff with the accounting `Exact` or `Released`.
        """
        return self.log_unit + log_mean_weight(self.log_weights)

    def mean(self) -> jax.Array:
        """Return the weighted mean, (*shape)."""
        return jnp.tensordot(self.weights, self.x, axes=1, precision="highest")

    def draw(self) -> jax.Array:
        """Return one particle, drawn by weight, (*shape)."""
        return self.x[ancestors(self.log_weights, self.pick)]


@pytree_dataclass
class Outlook:
    """What is known of one particle before it moves."""

    estimate: Estimate
    log_weight: jax.Array  # (), log h of (1)
    owed: Any = 0.0  # (), log of factors of h that are divided out at the end only
    aside: Any = None  # what the proposal needs besides


@pytree_dataclass
class ParticleSolver(LevelSolver):
    """A sequential Monte Carlo sampler; subclasses write `look` and `move`.

    The reconstruction is one particle drawn by weight, that is a posterior sample; the
    whole ensemble is returned by `particles`. Two results of one key are the same
    particle: draw again with another key for an independent sample.

    Args:
        grid: noise levels, T steps.
        num_particles: N.
        chunk_size: particles that are evaluated by the network at the same time; None
            means all.
        resampling: when and how; see `resampling`.
        reverse: reverse step K of the model whose posterior is sampled. It must be
            stochastic.
    """

    num_particles: int = static()
    chunk_size: int | None = static(default=None)
    resampling: Resampling = ResampleWhenDegenerate()
    reverse: OneCallStep = Ancestral()

    @abc.abstractmethod
    def look(
        self, x: jax.Array, at: Any, problem: Problem, prior: DiffusionPrior
    ) -> Outlook:
        """Return the clean estimate of a particle, and log h. Calls the network."""

    @abc.abstractmethod
    def move(
        self, x: jax.Array, outlook: Outlook, at: Any, problem: Problem, z: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return x' and the log of the correction, (), for standard normal `z`."""

    @property
    @abc.abstractmethod
    def calls_of_a_look(self) -> Calls:
        """Network calls of a particle and step."""

    def schedule(self, key: jax.Array, problem: Problem) -> Any:
        """Return what steps are handed as `at`: now, next and more, leaves (T, ...)."""
        return self.levels()

    def first_particles(
        self, noise: jax.Array, at: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, jax.Array]:
        """Return the particles, (N, *shape), and their log weights, (N,).

        Args:
            noise: standard normal, (N, *shape).
            at: what the first step is handed.
            problem: one example.
            prior: of the model.
        """
        x = jax.vmap(lambda z: self.start(z, problem, prior))(noise)
        return x, jnp.zeros(x.shape[:1], x.dtype)

    def check(self, problem: Problem, prior: DiffusionPrior) -> None:
        """Refuse settings that cannot work, before anything is compiled.

        Raises:
            TypeError: `reverse` is deterministic, so that no weight is defined.
        """
        if not self.reverse.stochastic:
            raise TypeError(
                f"{type(self).__name__} needs a stochastic reverse step; "
                f"{type(self.reverse).__name__} is deterministic, so that particles "
                "have no transition density. Use Ancestral() or DDIM(eta=1.0)."
            )

    def check_memory(self, problem: Problem, prior: Any, examples: int) -> None:
        """Raise ValueError if more particles are asked for than fit into memory."""
        require_memory(problem, prior, self, examples)

    def init(  # type: ignore[override]
        self, key: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> tuple[Particles, Any]:
        start_key, schedule_key, pick_key, steps_key = jax.random.split(key, 4)
        dtype = self.grid.sigma.dtype
        schedule = self.schedule(schedule_key, problem)
        first = jax.tree.map(lambda leaf: leaf[0], schedule)
        noise = jax.random.normal(start_key, (self.num_particles, *prior.shape), dtype)
        x, log_weights = self.first_particles(noise, first, problem, prior)
        pick = jax.random.uniform(pick_key, (), dtype)
        keys = jax.random.split(steps_key, self.grid.num_steps)
        carry = Particles(
            x=x,
            log_weights=log_weights,
            owed=jnp.zeros_like(log_weights),
            pick=pick,
            log_unit=jnp.zeros_like(pick),
        )
        return carry, (schedule, keys)

    def step(
        self, carry: Particles, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[Particles, StepTrace]:
        at, key = x
        resample_key, move_key = jax.random.split(key)

        def look(particle: jax.Array) -> tuple[Outlook, jax.Array]:
            outlook = self.look(particle, at, problem, prior)
            return outlook, problem.misfit(outlook.estimate.x0_hat)

        def move(particle: Any, outlook: Any, z: Any) -> tuple[jax.Array, jax.Array]:
            return self.move(particle, outlook, at, problem, z)

        outlooks, misfits = chunked_vmap(look, self.chunk_size)(carry.x)
        owed = carry.owed + outlooks.owed
        settled = jnp.where(at[1].sigma == 0, owed, 0)
        log_weights = carry.log_weights + outlooks.log_weight - settled
        chosen, kept = self.resampling(resample_key, log_weights)
        parents = jax.tree.map(lambda leaf: leaf[chosen], (carry.x, outlooks))
        noise = standard_normal(move_key, carry.x)
        moved, correction = jax.vmap(move)(parents[0], parents[1], noise)
        calls = jax.tree.map(lambda n: n * self.num_particles, self.calls_of_a_look)
        trace = StepTrace(
            misfit=jnp.sum(jax.nn.softmax(log_weights) * misfits),
            calls=calls,
            extra=effective_sample_size(log_weights),
        )
        log_weights = kept + correction
        _, log_unit = relative_weights(log_weights)
        after = Particles(
            x=moved,
            log_weights=log_weights - log_unit,
            owed=(owed - settled)[chosen],
            pick=carry.pick,
            log_unit=carry.log_unit + log_unit,
        )
        return after, trace

    def finalize(  # type: ignore[override]
        self, carry: Particles, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry.draw()


def particles(
    key: jax.Array, problem: Problem, prior: DiffusionPrior, solver: ParticleSolver
) -> Particles:
    """Return all particles of a solve, of which `solve` returns one.

    With the key of a `solve` they are its particles, and `particles(...).draw()` is its
    reconstruction. Arguments and errors are those of `solve`.
    """
    check_inputs(problem, prior, solver)
    return _particles(key, problem, prior, solver)


@jax.jit
def _particles(
    key: jax.Array, problem: Problem, prior: DiffusionPrior, solver: ParticleSolver
) -> Particles:
    check_promises(problem, prior, solver)
    whole = WholeEnsemble(solver=solver)
    return driver.run(key, problem, prior, whole).x  # type: ignore[return-value]


@pytree_dataclass
class WholeEnsemble(Solver):
    """A particle solver that returns its particles."""

    solver: ParticleSolver

    def check_memory(self, problem: Problem, prior: Any, examples: int) -> None:
        self.solver.check_memory(problem, prior, examples)

    def init(self, key: jax.Array, problem: Problem, prior: Any) -> tuple[Any, Any]:
        return self.solver.init(key, problem, prior)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: Any
    ) -> tuple[Any, StepTrace]:
        return self.solver.step(carry, x, problem, prior)

    def finalize(self, carry: Any, problem: Problem, prior: Any) -> Any:
        return carry
