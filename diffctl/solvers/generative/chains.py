"""Posterior samples by Markov chains, in the space of signals or of latents.

1. signals     pi(x) proportional to exp(-l(x) - E(x)),            E = -log p(x)
2. latents     pi(z) proportional to exp(-l(G(z)) - |z|^2 / 2),    x = G(z)

l is the negative log-likelihood; normalisers cancel. The kernels are those of
`solvers.kernels`.
"""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, GenerativePrior, LogDensityPrior, StepTrace
from diffctl.numerics.langevin import Point
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.generative.starts import Start, float_dtype, normal_start
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.kernels import MALA, Kernel


@pytree_dataclass
class Chain(IterativeSolver):
    """A Markov chain whose last state is the sample; subclasses say of what.

    Args:
        num_steps: of the chain.
        kernel: which step.
    """

    num_steps: int = static(default=1000)
    kernel: Kernel = MALA()

    @abc.abstractmethod
    def draw(self, key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        """Return where the chain starts."""

    @abc.abstractmethod
    def decode(self, v: jax.Array, prior: Any) -> jax.Array:
        """Return the signal of a state, (*prior.shape)."""

    @abc.abstractmethod
    def energy(self, v: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        """Return -log pi(v) up to a constant, ()."""

    @abc.abstractmethod
    def misfit(self, point: Point, problem: Problem) -> jax.Array:
        """Return l of the signal of a state, (), without a network call."""

    def start(self, key: jax.Array, problem: Problem, prior: Any) -> Point:
        v = self.draw(key, problem, prior)
        return Point.with_score(v, lambda v: -self.energy(v, problem, prior))

    def step(
        self, carry: Point, x: Any, problem: Problem, prior: Any
    ) -> tuple[Point, StepTrace]:
        point = self.kernel(x, carry, lambda v: -self.energy(v, problem, prior))
        count = self.kernel.num_gradients
        calls = Calls(fwd=count, vjp=count)
        accepted = point.num_accepted - carry.num_accepted
        misfit = self.misfit(point, problem)
        return point, StepTrace(misfit=misfit, calls=calls, extra=accepted)

    def finalize(self, carry: Point, problem: Problem, prior: Any) -> jax.Array:
        return self.decode(carry.x, prior)

    def calls_outside_steps(self) -> Calls:
        return Calls(fwd=1, vjp=1)


@pytree_dataclass
class DensityChain(Chain):
    """Posterior samples under an energy-based model or a flow: target (1).

    Requirements: any differentiable operator and noise; a prior with a density, which
    need not be normalised.

    Cost: per step `kernel.num_gradients` densities with their VJPs, one more at the
    start. One chain rarely leaves a mode: weights of modes need tempering.

    Args:
        start_from: `start(key, problem, prior)`: `normal_start`, `zero_start`,
            `pinv_start`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, LogDensityPrior)
    checked: ClassVar[tuple[str, ...]] = ("start_from",)
    cost_formula: ClassVar[str] = "(n L + 1) fwd + (n L + 1) VJP, L leapfrog steps"
    reference: ClassVar[str] = (
        "Roberts and Tweedie, Exponential convergence of Langevin distributions and "
        "their discrete approximations, Bernoulli 1996"
    )

    start_from: Start = static(default=normal_start)

    def draw(
        self, key: jax.Array, problem: Problem, prior: LogDensityPrior
    ) -> jax.Array:
        return self.start_from(key, problem, prior)

    def decode(self, v: jax.Array, prior: LogDensityPrior) -> jax.Array:
        return v

    def energy(
        self, v: jax.Array, problem: Problem, prior: LogDensityPrior
    ) -> jax.Array:
        return problem.misfit(v) + prior.neg_log_density(v)

    def misfit(self, point: Point, problem: Problem) -> jax.Array:
        return problem.misfit(point.x)


@pytree_dataclass
class LatentChain(Chain):
    """Posterior samples on the range of a generator: target (2), from z ~ N(0, I).

    Requirements: any differentiable operator and noise; a generator. For a flow this is
    the posterior under its density, without a determinant: laws, unlike modes, move
    with the coordinates.

    Cost: as `DensityChain`, and one decoding at the end.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, GenerativePrior)
    cost_formula: ClassVar[str] = "(n L + 2) fwd + (n L + 1) VJP, L leapfrog steps"
    reference: ClassVar[str] = (
        "Neal, MCMC using Hamiltonian dynamics, 2011 (in the latents of a generator)"
    )

    def draw(
        self, key: jax.Array, problem: Problem, prior: GenerativePrior
    ) -> jax.Array:
        dtype = float_dtype(problem, prior)
        return jax.random.normal(key, prior.latent_shape, dtype)

    def decode(self, v: jax.Array, prior: GenerativePrior) -> jax.Array:
        return prior.decode(v)

    def energy(
        self, v: jax.Array, problem: Problem, prior: GenerativePrior
    ) -> jax.Array:
        return problem.misfit(prior.decode(v)) + jnp.sum(v**2) / 2

    def misfit(self, point: Point, problem: Problem) -> jax.Array:
        return -point.log_density - jnp.sum(point.x**2) / 2

    def calls_outside_steps(self) -> Calls:
        return Calls(fwd=2, vjp=1)
