"""Where the iterations of DOC start: no controls, or those of one guided rollout.

Towards the noisy end the reverse process contracts nothing that the measurement asks
for, and far from a solution its linearisation says little. One rollout that looks ahead
with the denoiser alone, instead of with the steps that are still to come, starts close:

    (1)  u_i = - strength * gamma_i * damp_i * grad_z l(A(D_i(z_i)))
    (2)  damp_i = 1 / (1 + r_i^2 h_i),    r_i^2 = sigma_i^2 / (1 + sigma_i^2)

D_i is the denoiser at level i and gamma_i the reverse step's weight of a score. DOC's
unknowns are scaled controls, so that gamma_i comes to it as a gain of their unit. Were
the clean signal given x_i Gaussian around D_i with variance r_i^2, the loss of
curvature h would be wider by that factor (for Gaussian noise of std s, h = 1 / s^2 and
(1) has the weight 1 / (s^2 + r_i^2) of PiGDM: Song et al., ICLR 2023). h is taken along
the gradient of the loss.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.control import ComposedCost, ControlProblem
from diffctl.core import Calls
from diffctl.numerics import squared_norm
from diffctl.pytree import pytree_dataclass

Lookahead = Callable[[jax.Array, jax.Array], jax.Array]


class FirstGuess(abc.ABC):
    """A choice of the controls around which the first iteration linearises."""

    @abc.abstractmethod
    def __call__(
        self,
        problem: ControlProblem,
        lookahead: Lookahead,
        z_init: jax.Array,
        gain: jax.Array,
        spread: jax.Array,
    ) -> jax.Array:
        """Return controls (T, *shape).

        `lookahead(i, z)` is the clean estimate of a state, `gain` (T,) the control
        that a score of 1 asks for and `spread` (T,) the std r_i of that estimate.
        """

    @abc.abstractmethod
    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        """Return the network calls for T steps of a dynamics with the given calls."""


@pytree_dataclass
class NoControls(FirstGuess):
    """Start from the uncontrolled trajectory."""

    def __call__(
        self,
        problem: ControlProblem,
        lookahead: Lookahead,
        z_init: jax.Array,
        gain: jax.Array,
        spread: jax.Array,
    ) -> jax.Array:
        return jnp.zeros((*gain.shape, *z_init.shape), z_init.dtype)

    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        return Calls()


@pytree_dataclass
class GuidedControls(FirstGuess):
    """The controls (1) of one rollout. Needs a `ComposedCost` as terminal cost.

    Cost: per step one VJP of the denoiser and one call of the dynamics.

    Args:
        strength: (), of the guidance; 1 is the weight of a posterior score.
    """

    strength: Any = 1.0

    def __call__(
        self,
        problem: ControlProblem,
        lookahead: Lookahead,
        z_init: jax.Array,
        gain: jax.Array,
        spread: jax.Array,
    ) -> jax.Array:
        cost = problem.terminal_cost
        if not isinstance(cost, ComposedCost):
            raise TypeError(
                f"GuidedControls needs a ComposedCost; got {type(cost).__name__}. "
                "Return one from `terminal`, or start from NoControls()."
            )

        def step(z: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
            i, gain_i, spread_i = at
            measured, pullback = jax.vjp(lambda z: cost.vector(lookahead(i, z)), z)
            loss_grad = jax.grad(cost.loss)(measured)
            damp = 1 / (1 + spread_i**2 * _curvature(cost, measured, loss_grad))
            (z_grad,) = pullback(damp * loss_grad)
            u = -(self.strength * gain_i * z_grad).astype(z.dtype)
            # A measurement that is not finite guides nothing; the driver reports it.
            u = jnp.where(jnp.all(jnp.isfinite(u)), u, 0)
            return problem.dynamics(i, z, u), u

        indices = jnp.arange(gain.shape[0], dtype=jnp.int32)
        return lax.scan(step, z_init, (indices, gain, spread))[1]

    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        return Calls(fwd=num_steps * (1 + dynamics.fwd), vjp=num_steps)


def _curvature(
    cost: ComposedCost, measured: jax.Array, direction: jax.Array
) -> jax.Array:
    """Return d^T l'' d / |d|^2, () >= 0, and 0 for a zero direction."""
    root_transposed = jax.linear_transpose(
        lambda w: cost.loss.hessian_root(measured, w), measured
    )
    (rooted,) = root_transposed(direction)
    length = squared_norm(direction)
    tiny = jnp.finfo(length.dtype).tiny
    return squared_norm(rooted) / jnp.maximum(length, tiny)
