"""Backtracking line search over a fixed ladder of step sizes 1, 1/2, 1/4, ...

    u_i = u_i^old + s k_i + K_i (x_i - x_i^old),      s = 2^-j,  j = 0 .. max_tries - 1

The feedback is not scaled. The first s is taken for which

    J_old - J_new > c s |sum_i k_i . Q_u,i|;

with c = 0 that is a strictly smaller cost. If none is, trajectory and cost stay as they
are, a consistent pair, and the damping grows. The ladder is a scan whose remaining
rungs are skipped once one is accepted, so it is differentiable in reverse mode. A batch
pays for as many rungs as the example that needs most of them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffctl.control.linearisation import Linearisation
from diffctl.control.policy import Policy
from diffctl.control.problem import ControlProblem, total_cost
from diffctl.control.rollout import Trajectory, feedback_rollout
from diffctl.numerics import computed_where


class SearchResult(NamedTuple):
    """The outcome of a line search."""

    trajectory: Trajectory
    cost: jax.Array  # () J of `trajectory`
    step_size: jax.Array  # () accepted; 0 if none was
    tries: jax.Array  # () int32, candidates rolled out


def backtracking(
    problem: ControlProblem,
    linearisation: Linearisation,
    trajectory: Trajectory,
    cost: jax.Array,
    policy: Policy,
    max_tries: int,
    sufficient_decrease: jax.Array,
) -> SearchResult:
    """Search along `policy` from `trajectory`, whose cost is `cost`.

    Cost: T forwards per try. A candidate whose cost is not finite is refused.
    """
    # Not 0 * inf where c = 0 and the slope, a square of gradients, does not fit.
    slope = jnp.where(sufficient_decrease > 0, jnp.sum(policy.slope), 0)
    promised = sufficient_decrease * jnp.abs(slope)
    # Made on the host: XLA's exp2 is a rounding error off at exact powers.
    ladder = jnp.asarray(0.5 ** np.arange(max_tries), cost.dtype)
    gains = policy.gains

    def attempt(step_size: jax.Array, result: SearchResult) -> SearchResult:
        candidate = feedback_rollout(
            problem.dynamics,
            linearisation,
            trajectory.states[0],
            trajectory.states,
            trajectory.controls + step_size * gains.feedforward,
            gains,
        )
        new_cost = total_cost(problem, candidate.states, candidate.controls)
        accept = (cost - new_cost > step_size * promised) & jnp.isfinite(new_cost)
        found = SearchResult(candidate, new_cost, step_size, result.tries)
        kept = jax.tree.map(lambda new, old: jnp.where(accept, new, old), found, result)
        return kept._replace(tries=result.tries + 1)

    def rung(result: SearchResult, step_size: jax.Array) -> tuple[SearchResult, Any]:
        missing = result.step_size == 0
        tried = partial(attempt, step_size, result)
        return computed_where(missing, tried, result), None

    none = jnp.zeros_like(cost, dtype=jnp.int32)
    nothing = SearchResult(trajectory, cost, jnp.zeros_like(cost), none)
    result, _ = lax.scan(rung, nothing, ladder)
    return result
