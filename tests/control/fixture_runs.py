"""Compiled once per shape: the runs that several fixture tests look at."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffctl.control import (
    ControlProblem,
    Inconsistent,
    IterationState,
    LevenbergMarquardt,
    Policy,
    Proximal,
    TrajectoryOptimizer,
    ValueUpdate,
)
from diffctl.control.values import ReducedUpdate
from diffctl.pytree import pytree_dataclass

# The names of the README; `nohess` is handled where it occurs.
VALUE_UPDATES = {
    "exact": LevenbergMarquardt(),
    "paper": Inconsistent(),
    "absorbed": Proximal(),
}
RULES = list(VALUE_UPDATES.values())


@pytree_dataclass
class Chosen(ValueUpdate):
    """One of the library's updates by a traced index: one program for the three."""

    index: Any

    def correction(
        self, quadratic: jax.Array, linear: jax.Array, cross: jax.Array
    ) -> jax.Array:
        branches = [rule.correction for rule in RULES]
        return lax.switch(self.index, branches, quadratic, linear, cross)

    def reduced(self, weight: jax.Array, damping: jax.Array) -> ReducedUpdate:
        def branch(rule: ValueUpdate) -> Any:
            return lambda w, d: jax.tree.map(jnp.asarray, rule.reduced(w + 0.0, d))

        return lax.switch(self.index, [branch(r) for r in RULES], weight, damping)


def chosen(name: str) -> Chosen:
    return Chosen(index=np.int32(list(VALUE_UPDATES).index(name)))


def variants(f: dict[str, np.ndarray], array: str = "X") -> list[str]:
    return [name for name in VALUE_UPDATES if f"{name}_{array}" in f]


@partial(jax.jit, static_argnames="num_steps")
def run(
    problem: ControlProblem,
    optimizer: TrajectoryOptimizer,
    x_init: jax.Array,
    controls: jax.Array,
    num_steps: int,
) -> tuple[IterationState, Policy, jax.Array, jax.Array]:
    """Return iterates (I+1, ...), policies, step sizes and tries (I, ...)."""
    start = optimizer.init(problem, x_init, controls)

    def body(state: IterationState, _: None) -> Any:
        damping = optimizer.update.damping_of(state.update_state)
        policy = optimizer.backward(
            problem,
            optimizer.linearisation,
            state.trajectory,
            damping,
            jax.random.key(0),
        )
        result = optimizer.update(
            problem,
            optimizer.linearisation,
            state.trajectory,
            state.cost,
            policy,
            state.update_state,
        )
        state = IterationState(
            trajectory=result.trajectory,
            cost=result.cost,
            update_state=result.state,
        )
        return state, (state, policy, result.step_size, result.tries)

    _, (states, policy, step_size, tries) = lax.scan(body, start, None, num_steps)
    history = jax.tree.map(
        lambda first, later: jnp.concatenate([first[None], later]), start, states
    )
    return history, policy, step_size, tries
