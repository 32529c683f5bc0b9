"""How much a corrected clean image is held to the estimate it was made from.

    argmin_u |y - A u|^2 + penalty |u - x0_hat|^2

Were p(x0 | x_sigma) the normal law N(x0_hat, r^2 I) and the noise of y of standard
deviation s_y, the mode of p(x0 | x_sigma, y) would have penalty = s_y^2 / r^2.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass
from diffctl.solvers.pigdm import estimate_variance


class Penalty(abc.ABC):
    """The weight of |u - x0_hat|^2 beside |y - A u|^2, at every level."""

    @abc.abstractmethod
    def __call__(self, sigma: jax.Array, noise_std: Any) -> jax.Array:
        """Return the weight, () >= 0, at noise level `sigma` of the state."""


@pytree_dataclass
class BayesianPenalty(Penalty):
    """strength * s_y^2 / r^2, r^2 the variance of the clean image given the state.

    Args:
        strength: (), 1 is Bayes' rule.
        signal_std: of the clean image, (); infinite for r = sigma.
    """

    strength: Any = 1.0
    signal_std: Any = 0.5

    def __call__(self, sigma: jax.Array, noise_std: Any) -> jax.Array:
        variance = estimate_variance(sigma, self.signal_std)
        return self.strength * noise_std**2 / variance


@pytree_dataclass
class ConstantPenalty(Penalty):
    """The same weight at every level, whatever the noise; 0 trusts y alone."""

    value: Any

    def __call__(self, sigma: jax.Array, noise_std: Any) -> jax.Array:
        return jnp.asarray(self.value, sigma.dtype)
