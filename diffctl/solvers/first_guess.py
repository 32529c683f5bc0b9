"""Where the iterations of DOC start: the uncontrolled rollout, or a guided one.

Towards the noisy end the reverse process contracts nothing that the measurement asks
for, and far from a solution its linearisation says little. One rollout that looks ahead
with the denoiser alone, instead of with the steps that are still to come, starts close:

    (1)  u_i = - strength * gamma_i * J_i^T d_i
    (2)  (I + r_i^2 A^T l'' A) d_i = A^T l',    r_i^2 = sigma_i^2 / (1 + sigma_i^2)

with the denoiser's estimate x0 = D_i(z_i) at level i, J_i its Jacobian, A the
derivative of the measurement there, l' and l'' those of the loss and gamma_i the
reverse step's weight of a score. DOC's unknowns are scaled controls, so that gamma_i
comes to it as a gain of their unit. Were the clean signal given x_i Gaussian around x0
with variance r_i^2, (2) would make (1) the score of the measurement; for a linear one
with Gaussian noise of std s it is A^T (s^2 I + r^2 A A^T)^{-1} (A x0 - y), as in PiGDM
(Song et al., ICLR 2023).
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.control import (
    ComposedCost,
    ControlProblem,
    Trajectory,
    record_rollout,
    steered_rollout,
)
from diffctl.control.linearisation import Linearisation
from diffctl.control.problem import total_cost
from diffctl.core import Calls
from diffctl.numerics import conjugate_gradient
from diffctl.pytree import pytree_dataclass, static


class Outlook(NamedTuple):
    """What the denoiser says of the end, seen from every level."""

    lookahead: Callable[[jax.Array, jax.Array], jax.Array]  # (i, z_i) -> clean estimate
    gain: jax.Array  # (T,) the control that a score of 1 asks for
    spread: jax.Array  # (T,) r_i, the std of the clean estimate


class FirstGuess(abc.ABC):
    """A choice of the trajectory around which the first iteration linearises."""

    @abc.abstractmethod
    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        z_init: jax.Array,
        outlook: Outlook,
    ) -> Trajectory:
        """Return a trajectory from `z_init`, recorded with `linearisation`."""

    @abc.abstractmethod
    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        """Return the network calls for T steps of a dynamics with the given calls."""


@pytree_dataclass
class NoControls(FirstGuess):
    """Start from the uncontrolled trajectory."""

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        z_init: jax.Array,
        outlook: Outlook,
    ) -> Trajectory:
        controls = jnp.zeros((*outlook.gain.shape, *z_init.shape), z_init.dtype)
        return record_rollout(problem.dynamics, linearisation, z_init, controls)

    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        return Calls(fwd=num_steps * dynamics.fwd)


@pytree_dataclass
class GuidedControls(FirstGuess):
    """Start from a rollout with the controls (1), unless no controls cost less.

    That they do shows a denoiser that is none: an untrained network has derivatives
    that make the guided rollout explode. Needs a `ComposedCost` as terminal cost.

    Cost: per step one VJP of the denoiser and two calls of the dynamics; and
    `num_inner` products with A and A^T, which are no network calls.

    Args:
        strength: (), of the guidance; 1 is the weight of a posterior score.
        num_inner: steps of conjugate gradients for (2).
    """

    strength: Any = 1.0
    num_inner: int = static(default=20)

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        z_init: jax.Array,
        outlook: Outlook,
    ) -> Trajectory:
        cost = problem.terminal_cost
        if not isinstance(cost, ComposedCost):
            raise TypeError(
                f"GuidedControls needs a ComposedCost; got {type(cost).__name__}. "
                "Return one from `terminal`, or start from NoControls()."
            )

        def steer(i: jax.Array, z: jax.Array, at: Any) -> jax.Array:
            gain, spread = at
            x0_hat, pullback = jax.vjp(partial(outlook.lookahead, i), z)
            (z_grad,) = pullback(_descent(cost, x0_hat, spread, self.num_inner))
            return -(self.strength * gain * z_grad).astype(z.dtype)

        at = (outlook.gain, outlook.spread)
        guided = steered_rollout(problem.dynamics, linearisation, z_init, steer, at)
        plain = NoControls()(problem, linearisation, z_init, outlook)
        costs = [total_cost(problem, t.states, t.controls) for t in (guided, plain)]
        # A guided rollout that is not finite costs NaN and is not the cheaper one.
        return jax.tree.map(partial(jnp.where, costs[0] <= costs[1]), guided, plain)

    def calls(self, num_steps: int, dynamics: Calls) -> Calls:
        return Calls(fwd=num_steps * (1 + 2 * dynamics.fwd), vjp=num_steps)


def _descent(
    cost: ComposedCost, x0_hat: jax.Array, spread: jax.Array, num_steps: int
) -> jax.Array:
    """Return d of (2), (*shape)."""
    measured, forward = jax.linearize(cost.vector, x0_hat)
    adjoint = jax.linear_transpose(forward, x0_hat)
    root = partial(cost.loss.hessian_root, measured)
    root_transposed = jax.linear_transpose(root, measured)

    def widened(d: jax.Array) -> jax.Array:
        (curved,) = adjoint(root(*root_transposed(forward(d))))
        return d + spread**2 * curved

    (loss_grad,) = adjoint(jax.grad(cost.loss)(measured))
    return conjugate_gradient(widened, loss_grad, num_steps=num_steps)
