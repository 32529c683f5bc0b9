"""Draws from p(x0 | x_sigma, y): Markov chains on the clean image, and an exact draw.

The target is log p(x0 | x_sigma) - l(x0), l = -log p(y | A(x0)); chains start at the
clean estimate.
"""

import abc
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.langevin import (
    Point,
    draw_velocity,
    hamiltonian_step,
    langevin_step,
    random_walk_step,
    run_chain,
    underdamped_step,
)
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import LinearOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.clean_space.clean_laws import NormalLaw
from diffctl.solvers.clean_space.conditional import Conditional
from diffctl.solvers.clean_space.step_sizes import RelativeStep, StepSize


class InnerSampler(abc.ABC):
    """A way to draw x0 ~ p(x0 | x_sigma, y)."""

    @property
    @abc.abstractmethod
    def num_scores(self) -> int:
        """How often the score of p(x0 | x_sigma) is evaluated for a draw."""

    @abc.abstractmethod
    def draw(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        """Return x0, (*shape)."""


@pytree_dataclass
class ChainSampler(InnerSampler):
    """A Markov chain.

    Args:
        num_steps: steps per level.
        step_size: h.
    """

    num_steps: int = static(default=100)
    step_size: StepSize = RelativeStep()

    @property
    def num_scores(self) -> int:
        return self.num_steps

    def draw(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        key_size, key_start, key_chain = jax.random.split(key, 3)
        size = self.step_size(key_size, conditional).astype(conditional.x0_hat.dtype)
        return self.walk((key_start, key_chain), conditional, size)

    @abc.abstractmethod
    def walk(
        self,
        keys: tuple[jax.Array, jax.Array],
        conditional: Conditional,
        size: jax.Array,
    ) -> jax.Array:
        """Return the end of a chain; `keys` of its start and of its steps."""


@pytree_dataclass
class Langevin(ChainSampler):
    """Unadjusted Langevin steps, biased by their size.

    Args: see `ChainSampler`.
    """

    def walk(
        self,
        keys: tuple[jax.Array, jax.Array],
        conditional: Conditional,
        size: jax.Array,
    ) -> jax.Array:
        def kernel(z: jax.Array, v: jax.Array) -> jax.Array:
            return langevin_step(z, v, conditional.score, size)

        start = conditional.x0_hat
        draw = partial(standard_normal, like=start)
        return run_chain(keys[1], kernel, start, self.num_steps, draw=draw)


@pytree_dataclass
class UnderdampedLangevin(ChainSampler):
    """Langevin steps with a velocity, drawn once per level: what DAPS calls HMC.

    Stable for h P < 2 (1 + momentum), P the precision of the target; moves like
    Langevin steps of size h / (1 - momentum).

    Args: see `ChainSampler`, and
        momentum: share of the velocity that is kept, in [0, 1); 0 is `Langevin`.
    """

    momentum: Any = 0.5

    def walk(
        self,
        keys: tuple[jax.Array, jax.Array],
        conditional: Conditional,
        size: jax.Array,
    ) -> jax.Array:
        def kernel(z: jax.Array, state: Any) -> Any:
            return underdamped_step(z, state, conditional.score, size, self.momentum)

        start = draw_velocity(keys[0], conditional.x0_hat)
        draw = partial(standard_normal, like=start.x)
        return run_chain(keys[1], kernel, start, self.num_steps, draw=draw).x


@pytree_dataclass
class HamiltonianMonteCarlo(ChainSampler):
    """Hamiltonian Monte Carlo proper: leapfrog trajectories, accepted or rejected.

    Exact for any step size. The leapfrog step is sqrt(2 h), one of which moves like a
    Langevin step. Needs a law with a density.

    Args: see `ChainSampler`, and
        num_leapfrog: leapfrog steps per trajectory.
    """

    num_leapfrog: int = static(default=5)

    def walk(
        self,
        keys: tuple[jax.Array, jax.Array],
        conditional: Conditional,
        size: jax.Array,
    ) -> jax.Array:
        density, root = conditional.log_density, jnp.sqrt(2 * size)

        def kernel(key: jax.Array, point: Point) -> Point:
            return hamiltonian_step(key, point, density, root, self.num_leapfrog)

        start = Point.with_score(conditional.x0_hat, density)
        return _position(run_chain(keys[1], kernel, start, self.num_steps))


@pytree_dataclass
class MetropolisHastings(ChainSampler):
    """A random walk, accepted or rejected: needs no derivative of the operator.

    Exact for any step size, but acceptance falls with the dimension: for small or
    latent problems. `RelativeStep` does differentiate; black-box operators take a
    `DecayingStep`. Needs a law with a density.

    Args: see `ChainSampler`.
    """

    def walk(
        self,
        keys: tuple[jax.Array, jax.Array],
        conditional: Conditional,
        size: jax.Array,
    ) -> jax.Array:
        density = conditional.log_density

        def kernel(key: jax.Array, point: Point) -> Point:
            return random_walk_step(key, point, density, size)

        start = Point.at(conditional.x0_hat, density)
        return _position(run_chain(keys[1], kernel, start, self.num_steps))


@pytree_dataclass
class ExactDraw(InnerSampler):
    """The exact law for linear operators, white noise and a normal p(x0 | x_sigma).

    A pair (x0, y) drawn from the model is moved to the measurement:

        x0' ~ N(x0_hat, r^2 I),   y' = A x0' + s_y n
        x0  = x0' + A^H (A A^H + (s_y / r)^2 I)^{-1} (y - y')

    In closed form for spectral operators, by conjugate gradients for others.
    """

    @property
    def num_scores(self) -> int:
        return 0

    def draw(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        problem, law = conditional.problem, conditional.law
        operator, noise = problem.operator, problem.noise
        if not (
            isinstance(law, NormalLaw)
            and isinstance(operator, LinearOperator)
            and isinstance(noise, WhiteNoise)
        ):
            raise TypeError(
                "ExactDraw needs a LinearOperator, WhiteNoise and a normal law; got "
                f"{type(operator).__name__}, {type(noise).__name__} and "
                f"{type(law).__name__}. Use Langevin."
            )
        key_signal, key_noise = jax.random.split(key)
        mean = law.mean
        signal = mean + jnp.sqrt(law.variance) * standard_normal(key_signal, mean)
        simulated = noise.sample(key_noise, operator(signal))
        residual = jax.tree.map(jnp.subtract, problem.y, simulated)
        return signal + operator.damped_pinv(residual, noise.std**2 / law.variance)


def _position(point: Point) -> jax.Array:
    """Return where a chain ended, NaN if it could not move for want of a density."""
    return jnp.where(jnp.isfinite(point.log_density), point.x, jnp.nan)
