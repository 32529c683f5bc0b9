"""Families of laws for variational inference, as transforms of standard normals.

With e ~ N(0, I):

1. mean field        x = m + exp(r) e           (entrywise)
2. full covariance   x = m + L e,   L lower triangular with diagonal exp(r)
3. flow              x = g(e)

The entropy of each is E log |det dx/de| up to a constant.
"""

import abc
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import InvertiblePrior
from diffctl.pytree import pytree_dataclass, static


class Family(abc.ABC):
    """A family of laws of a signal, by its parameters."""

    @abc.abstractmethod
    def init(self, x: jax.Array) -> Any:
        """Return parameters, a pytree, of a law around `x`, (*shape)."""

    @abc.abstractmethod
    def transform(self, law: Any, eps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return x, (*shape), and log |det dx/de|, (), for `eps` (*shape)."""

    @abc.abstractmethod
    def centre(self, law: Any) -> jax.Array:
        """Return a point in the middle of the law, (*shape)."""


class MeanFieldLaw(NamedTuple):
    """Independent normal entries."""

    mean: jax.Array  # (*shape)
    log_std: jax.Array  # (*shape)


@pytree_dataclass
class MeanField(Family):
    """Independent normal entries: (1).

    For a Gaussian posterior of covariance S the best one has the exact mean and the
    variances 1 / (S^{-1})_ii, at most S_ii.
    """

    initial_std: Any = 0.1  # ()

    def init(self, x: jax.Array) -> MeanFieldLaw:
        log_std = jnp.log(jnp.asarray(self.initial_std, x.dtype))
        return MeanFieldLaw(x, jnp.full_like(x, log_std))

    def transform(
        self, law: MeanFieldLaw, eps: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return law.mean + jnp.exp(law.log_std) * eps, jnp.sum(law.log_std)

    def centre(self, law: MeanFieldLaw) -> jax.Array:
        return law.mean


class CorrelatedLaw(NamedTuple):
    """A normal law with a full covariance, through its triangular root."""

    mean: jax.Array  # (*shape)
    log_diagonal: jax.Array  # (d,)
    below: jax.Array  # (d, d), of which the part below the diagonal counts

    def root(self) -> jax.Array:
        """Return L, (d, d); the covariance is L L^T."""
        return jnp.tril(self.below, -1) + jnp.diag(jnp.exp(self.log_diagonal))


@pytree_dataclass
class FullCovariance(Family):
    """A normal law with any covariance: (2). d^2 parameters for d entries.

    Exact for a Gaussian posterior.
    """

    initial_std: Any = 0.1  # ()

    def init(self, x: jax.Array) -> CorrelatedLaw:
        log_std = jnp.log(jnp.asarray(self.initial_std, x.dtype))
        log_diagonal = jnp.full((x.size,), log_std, x.dtype)
        return CorrelatedLaw(x, log_diagonal, jnp.zeros((x.size, x.size), x.dtype))

    def transform(
        self, law: CorrelatedLaw, eps: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        shift = jnp.matmul(law.root(), eps.reshape(-1), precision="highest")
        return law.mean + shift.reshape(eps.shape), jnp.sum(law.log_diagonal)

    def centre(self, law: CorrelatedLaw) -> jax.Array:
        return law.mean


@pytree_dataclass
class FlowFamily(Family):
    """The laws of a normalising flow, started from the given one: (3).

    Its latents must have as many entries as the signal. The middle is g(0).
    """

    flow: InvertiblePrior

    def init(self, x: jax.Array) -> InvertiblePrior:
        return self.flow

    def transform(
        self, law: InvertiblePrior, eps: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return law.decode_with_log_det(eps.reshape(law.latent_shape))

    def centre(self, law: InvertiblePrior) -> jax.Array:
        return law.decode(jnp.zeros(law.latent_shape, jax.tree.leaves(law)[0].dtype))


class Expectation(abc.ABC):
    """A rule E f(e) = mean of f over nodes, for e ~ N(0, I)."""

    @abc.abstractmethod
    def num_nodes(self, shape: tuple[int, ...]) -> int:
        """Return the number of nodes for vectors of a shape."""

    @abc.abstractmethod
    def nodes(self, key: jax.Array, like: jax.Array) -> jax.Array:
        """Return the nodes, (num_nodes, *shape), of the dtype of `like` (*shape)."""


@pytree_dataclass
class AntitheticDraws(Expectation):
    """Draws and their mirror images: 2 `num_pairs` nodes, exact for linear f."""

    num_pairs: int = static(default=2)

    def num_nodes(self, shape: tuple[int, ...]) -> int:
        return 2 * self.num_pairs

    def nodes(self, key: jax.Array, like: jax.Array) -> jax.Array:
        eps = jax.random.normal(key, (self.num_pairs, *like.shape), like.dtype)
        return jnp.concatenate([eps, -eps])


@pytree_dataclass
class CubaturePoints(Expectation):
    """The 2 d points +- sqrt(d) e_i: exact for f up to third order, and not random."""

    def num_nodes(self, shape: tuple[int, ...]) -> int:
        return 2 * math.prod(shape)

    def nodes(self, key: jax.Array, like: jax.Array) -> jax.Array:
        points = math.sqrt(like.size) * jnp.eye(like.size, dtype=like.dtype)
        points = points.reshape(like.size, *like.shape)
        return jnp.concatenate([points, -points])
