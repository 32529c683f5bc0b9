"""How long the steps of a chain on the clean image are."""

import abc
from typing import Any

import jax

from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.clean_space.conditional import Conditional
from diffctl.solvers.clean_space.curvature import PowerIteration


class StepSize(abc.ABC):
    """A choice of the step size h of a chain, once per level."""

    @abc.abstractmethod
    def __call__(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        """Return h, (), in units of the squared signal."""


@pytree_dataclass
class RelativeStep(StepSize):
    """h = fraction / P, P the largest curvature of the target at the clean estimate.

    The data's part of P is estimated by power iteration, a JVP and a VJP of the
    operator for each product. Langevin steps are stable for fraction < 2.
    """

    fraction: Any = 0.1
    num_products: int = static(default=3)

    def __call__(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        largest = PowerIteration(num_products=self.num_products)
        curvature = largest(key, conditional.problem, conditional.x0_hat)
        return self.fraction / (conditional.law.precision + curvature)


@pytree_dataclass
class DecayingStep(StepSize):
    """h = first (1 + progress (last_ratio - 1)), whatever the target: as published.

    Args:
        first: h at the first level.
        last_ratio: what h would be multiplied by when all levels are done.
    """

    first: Any = 1e-4
    last_ratio: Any = 0.01

    def __call__(self, key: jax.Array, conditional: Conditional) -> jax.Array:
        return self.first * (1 + conditional.progress * (self.last_ratio - 1))
