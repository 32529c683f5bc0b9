"""Which factors particles still owe, and what stands in their place at the end."""

import abc

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass
from diffctl.solvers.monte_carlo.observation import Observation


class Accounting(abc.ABC):
    """When factors are divided out, and what the end is weighted with."""

    @abc.abstractmethod
    def spent(self, now: Observation, next: Observation) -> jax.Array:
        """Return the factors of `now` that are divided out by the step, (k,) bool."""

    @abc.abstractmethod
    def owed(self, now: Observation, next: Observation) -> jax.Array:
        """Return the factors of `now` that are divided out at the end, (k,) bool."""

    @abc.abstractmethod
    def last(self, misfit: jax.Array) -> jax.Array:
        """Return the log weight of a clean signal, ()."""


@pytree_dataclass
class Exact(Accounting):
    """All factors are divided out, and the end is weighted with the likelihood.

    Exact for the discretised model as N grows, whatever the factors. Those of a
    direction that is released wait until the likelihood can take their place: the
    weights 1 / g alone would have an infinite variance.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & next.active

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & ~next.active

    def last(self, misfit: jax.Array) -> jax.Array:
        return -misfit


@pytree_dataclass
class Released(Exact):
    """`Exact` as it was released: only the last factors to go wait for the likelihood.

    Those of a direction that is released before others are divided out at once, which
    leaves the weights to a few particles.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & jnp.any(next.active)

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & ~jnp.any(next.active)


@pytree_dataclass
class KnownPath(Accounting):
    """All factors stay: the state was observed at each of the levels."""

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return jnp.zeros_like(now.active)

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return jnp.zeros_like(now.active)

    def last(self, misfit: jax.Array) -> jax.Array:
        return jnp.zeros_like(misfit)


@pytree_dataclass
class PathObservation(KnownPath):
    """The last factor of a direction stays, and the likelihood is not used.

    The posterior of a model whose state was observed as y_i at the level e_i, with
    variance kappa (1 + e_i^2): that of the problem as kappa and the steps tend to 0.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & next.active


@pytree_dataclass
class Filter(KnownPath):
    """All factors stay, and the likelihood is that of one more observation."""

    def last(self, misfit: jax.Array) -> jax.Array:
        return -misfit
