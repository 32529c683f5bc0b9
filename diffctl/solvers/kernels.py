"""Steps of Markov chains as strategies: `numerics.langevin` with settings.

Steps are quoted as h in x' = x + h grad log pi + sqrt(2 h) xi; in texts that write
(e/2) grad log pi + sqrt(e) xi, e = 2 h.
"""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.numerics.langevin import (
    LogDensity,
    Point,
    hamiltonian_step,
    langevin_step,
    mala_step,
)
from diffctl.numerics.normal import standard_normal
from diffctl.pytree import pytree_dataclass, static


class Kernel(abc.ABC):
    """One step of a chain that uses gradients."""

    step_size: Any  # () > 0

    @property
    def num_gradients(self) -> int:
        """How many densities with their gradients a step costs."""
        return 1

    @abc.abstractmethod
    def __call__(self, key: jax.Array, point: Point, log_density: LogDensity) -> Point:
        """Return the next point of the chain."""


class Adjusted(Kernel):
    """A step that is accepted or rejected, so that every step size is exact."""

    target_acceptance: ClassVar[float]  # the share at which the kernel is efficient


@pytree_dataclass
class Unadjusted(Kernel):
    """Langevin steps that are all accepted.

    Biased: where log pi has curvature -P the stationary variance is
    1 / (P (1 - h P / 2)). Diverges for h P >= 2. Chains with less noise than this, as
    short ones in trained energy models often have, sample nothing in particular.
    """

    step_size: Any = 1e-3

    def __call__(self, key: jax.Array, point: Point, log_density: LogDensity) -> Point:
        z = standard_normal(key, point.x)
        x = langevin_step(z, point.x, lambda _: point.score, self.step_size)
        moved = Point.with_score(x, log_density)
        return moved._replace(
            num_accepted=point.num_accepted + 1,
            acceptance=jnp.ones_like(moved.acceptance),
        )


@pytree_dataclass
class MALA(Adjusted):
    """Langevin proposals, accepted or rejected: exact for every step size.

    In d dimensions steps are of order d^(-1/3) of the law's narrowest width; efficient
    where about 0.57 of the proposals are accepted.
    """

    target_acceptance: ClassVar[float] = 0.574

    step_size: Any = 1e-2

    def __call__(self, key: jax.Array, point: Point, log_density: LogDensity) -> Point:
        return mala_step(key, point, log_density, self.step_size)


@pytree_dataclass
class HMC(Adjusted):
    """Hamiltonian Monte Carlo with `num_leapfrog` steps per proposal: exact.

    In d dimensions steps are of order d^(-1/4) of the law's narrowest width; efficient
    where about 0.65 to 0.8 of the proposals are accepted.
    """

    target_acceptance: ClassVar[float] = 0.8

    step_size: Any = 0.1
    num_leapfrog: int = static(default=10)

    @property
    def num_gradients(self) -> int:
        return self.num_leapfrog

    def __call__(self, key: jax.Array, point: Point, log_density: LogDensity) -> Point:
        return hamiltonian_step(
            key, point, log_density, self.step_size, self.num_leapfrog
        )
