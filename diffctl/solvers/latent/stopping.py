"""Which iterate of an optimisation counts: early stopping as data.

An optimisation that fits the noise passes good reconstructions on its way. Rules look
at the iterates only, never at the truth.

    V_k = mean over the last W reconstructions of |x - their mean|^2

is large while the reconstruction moves, smallest where it settles, and grows again as
noise is fitted. Source: "Early stopping for deep image prior" (Wang et al., TMLR 2023).
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass, static


class StoppingRule(abc.ABC):
    """A rule that remembers one iterate of those that it is shown, in order."""

    @abc.abstractmethod
    def init(self, z: jax.Array, x: jax.Array) -> Any:
        """Return the first memory; `z` unknowns, `x` (*shape) gives a shape."""

    @abc.abstractmethod
    def update(self, memory: Any, z: jax.Array, x: jax.Array) -> Any:
        """Look at unknowns `z` and the reconstruction `x` that they give."""

    @abc.abstractmethod
    def choose(self, memory: Any, z: jax.Array) -> jax.Array:
        """Return the unknowns that count; `z` are the last ones."""


@pytree_dataclass
class LastIterate(StoppingRule):
    """The last iterate: no early stopping."""

    def init(self, z: jax.Array, x: jax.Array) -> Any:
        return ()

    def update(self, memory: Any, z: jax.Array, x: jax.Array) -> Any:
        return ()

    def choose(self, memory: Any, z: jax.Array) -> jax.Array:
        return z


class Window(NamedTuple):
    """The memory of `MovingVariance`."""

    recent: jax.Array  # (W, *shape), the last reconstructions
    seen: jax.Array  # () int32
    smallest: jax.Array  # () smallest V so far
    z: jax.Array  # the unknowns there
    waited: jax.Array  # () int32, iterates since then


@pytree_dataclass
class MovingVariance(StoppingRule):
    """The iterate at the smallest moving variance V, until it has not fallen for long.

    Later iterates are computed but do not count. Before W iterates are seen the last
    one is taken.

    Args:
        window: W, reconstructions that V is computed of; all are stored.
        patience: the rule has stopped after so many iterates without a smaller V.
    """

    window: int = static(default=10)
    patience: int = static(default=100)

    def init(self, z: jax.Array, x: jax.Array) -> Window:
        zero = jnp.zeros((), jnp.int32)
        return Window(
            recent=jnp.zeros((self.window, *x.shape), x.dtype),
            seen=zero,
            # Not infinite: the carry of a solve has to be finite.
            smallest=jnp.full((), jnp.finfo(x.dtype).max),
            z=z,
            waited=zero,
        )

    def update(self, memory: Window, z: jax.Array, x: jax.Array) -> Window:
        recent = memory.recent.at[memory.seen % self.window].set(x)
        seen = memory.seen + 1
        spread = recent - jnp.mean(recent, axis=0, keepdims=True)
        variance = jnp.sum(spread**2) / self.window
        filling = seen <= self.window
        running = memory.waited < self.patience
        better = running & (filling | (variance < memory.smallest))
        smallest = jnp.where(seen < self.window, memory.smallest, variance)
        return Window(
            recent=recent,
            seen=seen,
            smallest=jnp.where(better, smallest, memory.smallest),
            z=jnp.where(better, z, memory.z),
            waited=jnp.where(better, 0, memory.waited + running),
        )

    def choose(self, memory: Window, z: jax.Array) -> jax.Array:
        return memory.z
