"""Latent optimisation: the measurement fitted by the latents of a frozen generator.

With a generator G whose latents are standard normal,

1. minimise  cost(G(z)) + penalty_weight * penalty(z)  from several random starts
2. return G(z) of the start with the smallest value

With the negative log-likelihood, the penalty |z|^2 / 2 and weight 1 this is the MAP
estimate of z; for a linear generator, the posterior mean of x.

Here G is a deterministic sampler of few steps, or a consistency model.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.control import ComposedCost
from diffctl.core import Calls, ConsistencyPrior, DiffusionPrior, StepTrace
from diffctl.diffusion import Euler, NoiseGrid, OneCallStep, generate
from diffctl.numerics.descent import Descent
from diffctl.numerics.dtypes import default_float
from diffctl.numerics.safe import squared_norm
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.costs import likelihood
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.latent.stopping import LastIterate, StoppingRule

Penalty = Callable[[jax.Array], jax.Array]


def gaussian_penalty(z: jax.Array) -> jax.Array:
    """Return |z|^2 / 2; it is smallest at 0, far from where normal latents lie."""
    return squared_norm(z) / 2


def shell_penalty(z: jax.Array) -> jax.Array:
    """Return (|z|^2 - d)^2 / (2 d), smallest where normal latents lie."""
    return (squared_norm(z) - z.size) ** 2 / (2 * z.size)


@pytree_dataclass
class LatentCarry:
    """All restarts of a latent optimisation, along the leading axis R."""

    z: jax.Array  # (R, *latent shape)
    descent: Any  # state of the optimiser
    memory: Any  # of the stopping rule


@pytree_dataclass
class LatentOptimisation(IterativeSolver):
    """The minimisation of (1) for some generator; subclasses say which.

    Args:
        num_steps: gradient steps n.
        num_restarts: R, starts from independent normal latents.
        descent: the optimiser.
        cost: `problem -> ComposedCost` of the generated signal.
        penalty: `z -> ()` of the latents of one restart.
        penalty_weight: (), 0 leaves the penalty out.
        stopping: which iterate of a restart counts.
    """

    checked: ClassVar[tuple[str, ...]] = ("cost",)

    num_steps: int = static(default=1000)
    num_restarts: int = static(default=2)
    descent: Descent = Descent.adam(0.01)
    cost: Callable[[Problem], ComposedCost] = static(default=likelihood)
    penalty: Penalty = static(default=gaussian_penalty)
    penalty_weight: Any = 1.0
    stopping: StoppingRule = LastIterate()

    @abc.abstractmethod
    def latent(self, prior: Any) -> jax.ShapeDtypeStruct:
        """Return shape and dtype of the latents of one signal."""

    @abc.abstractmethod
    def generate(self, prior: Any, z: jax.Array) -> jax.Array:
        """Return the signal G(z), (*shape), differentiable in z."""

    @abc.abstractmethod
    def generator_calls(self) -> int:
        """Return the network calls of `generate`."""

    def start(self, key: jax.Array, problem: Problem, prior: Any) -> LatentCarry:
        latent = self.latent(prior)
        z = jax.random.normal(key, (self.num_restarts, *latent.shape), latent.dtype)
        signal = jnp.zeros((self.num_restarts, *prior.shape), latent.dtype)
        memory = jax.vmap(self.stopping.init)(z, signal)
        return LatentCarry(z=z, descent=self.descent.init(z), memory=memory)

    def step(
        self, carry: LatentCarry, x: Any, problem: Problem, prior: Any
    ) -> tuple[LatentCarry, StepTrace]:
        def total(z: jax.Array) -> tuple[jax.Array, Any]:
            values, signals = self._values(z, problem, prior)
            return jnp.sum(values), (values, signals)

        gradient, (values, signals) = jax.grad(total, has_aux=True)(carry.z)
        memory = jax.vmap(self.stopping.update)(carry.memory, carry.z, signals)
        z, descent = self.descent.update(gradient, carry.descent, carry.z)
        calls = self.num_restarts * self.generator_calls()
        misfit = problem.misfit(signals[jnp.argmin(values)])
        moved = LatentCarry(z=z, descent=descent, memory=memory)
        return moved, StepTrace(misfit=misfit, calls=Calls(fwd=calls, vjp=calls))

    def finalize(self, carry: LatentCarry, problem: Problem, prior: Any) -> jax.Array:
        z = jax.vmap(self.stopping.choose)(carry.memory, carry.z)
        values, signals = self._values(z, problem, prior)
        return signals[jnp.argmin(values)]

    def calls_outside_steps(self) -> Calls:
        return Calls(fwd=self.num_restarts * self.generator_calls())

    def _values(
        self, z: jax.Array, problem: Problem, prior: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Return (1) and the signal of every restart, (R,) and (R, *shape)."""
        cost = self.cost(problem)

        def one(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            signal = self.generate(prior, z)
            return cost(signal) + self.penalty_weight * self.penalty(z), signal

        return jax.vmap(one)(z)


@pytree_dataclass
class ThroughSampler(LatentOptimisation):
    """Latent optimisation through a deterministic sampler of few steps.

    Args (besides those of `LatentOptimisation`):
        grid: its noise levels, T of them (about 3).
        reverse: its step, whose noise is left out; `bound` is inside the gradient.
    """

    grid: NoiseGrid
    reverse: OneCallStep = Euler()

    def latent(self, prior: DiffusionPrior) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(prior.shape, self.grid.sigma.dtype)

    def generate(self, prior: DiffusionPrior, z: jax.Array) -> jax.Array:
        def body(x: jax.Array, levels: Any) -> tuple[jax.Array, None]:
            now, next = levels
            return self.reverse(prior, x, now, next, jnp.zeros_like(x)), None

        start = jnp.sqrt(1 + self.grid.sigma[0] ** 2) * z
        x, _ = jax.lax.scan(body, start, self.grid.pairs())
        return x

    def generator_calls(self) -> int:
        return self.grid.num_steps


@pytree_dataclass
class SamplerCSGM(ThroughSampler):
    """CSGM (Bora et al., ICML 2017) with a few-step sampler as the generator.

        min_z  -log p(y | R(z)) + penalty_weight |z|^2 / 2,    R: T deterministic steps

    Requirements: any differentiable operator; any noise model (see `cost`).

    Cost: n R T forwards and VJPs for n steps, R restarts and T levels, R T forwards for
    the result; memory of T VJPs times R.

    Deviations: the published objective is the mean squared residual plus c_z |z|^2, for
    a GAN or VAE; with `cost=mean_squared_residual` the weight 2 c_z is the same. Its
    Bayes value is 2 sigma_y^2 / m there and 1 here. Its L1 loss is left out.

    Args: see `ThroughSampler`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "R T (n + 1) fwd + R T n VJP (R restarts)"
    reference: ClassVar[str] = (
        "Bora et al., Compressed Sensing using Generative Models, ICML 2017"
    )


@pytree_dataclass
class ConsistencyCSGM(LatentOptimisation):
    """CSGM (Bora et al., ICML 2017) with a consistency model as the generator.

        min_z  -log p(y | f(sigma_max z, sigma_max)) + penalty_weight |z|^2 / 2

    With several levels, the noises added between the calls are unknowns as well.

    Requirements: any differentiable operator; any noise model (see `cost`). One-step
    maps are rough: several restarts, and small steps. In many dimensions the Gaussian
    penalty pulls z off the shell |z|^2 = d; `shell_penalty` does not.

    Cost: n R L forwards and VJPs for n steps, R restarts and L levels, R L forwards for
    the result; memory of L VJPs times R.

    Deviations: see `SamplerCSGM`.

    Args: see `LatentOptimisation`, and
        sigma: levels, noisiest first, (L,); see `diffusion.karras_levels`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, ConsistencyPrior)
    cost_formula: ClassVar[str] = "R L (n + 1) fwd + R L n VJP (R restarts, L levels)"
    reference: ClassVar[str] = SamplerCSGM.reference

    sigma: jax.Array

    @classmethod
    def one_step(cls, prior: ConsistencyPrior, **settings: Any) -> "ConsistencyCSGM":
        """Return the one-step generator f(sigma_max z, sigma_max) of a prior."""
        return cls(sigma=jnp.asarray([prior.sigma_max], default_float()), **settings)

    def latent(self, prior: ConsistencyPrior) -> jax.ShapeDtypeStruct:
        shape = (*self.sigma.shape, *prior.shape)
        return jax.ShapeDtypeStruct(shape, self.sigma.dtype)

    def generate(self, prior: ConsistencyPrior, z: jax.Array) -> jax.Array:
        return generate(prior, self.sigma, z)

    def generator_calls(self) -> int:
        return self.sigma.shape[0]
