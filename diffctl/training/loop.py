"""One training loop: gradient, optimiser, moving average; resumable to the bit.

Step n depends on (seed, n) and the state alone: a run that was killed and resumed from
a checkpoint gives the same parameters as one that was not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffctl.pytree import pytree_dataclass
from diffctl.training.data import Dataset


@pytree_dataclass
class TrainState:
    """Everything that a resumed run needs."""

    net: Any
    ema: Any  # moving average of the parameters, what is evaluated and saved
    optimiser_state: Any
    step: jax.Array  # () int32


def create_state(net: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """Start training from `net`."""
    return TrainState(
        net=net,
        ema=jax.tree.map(jnp.copy, net),
        optimiser_state=optimiser.init(net),
        step=jnp.zeros((), jnp.int32),
    )


def train(
    state: TrainState,
    dataset: Dataset,
    objective: Any,
    optimiser: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[TrainState, jax.Array], None],
) -> TrainState:
    """Run from `state.step` up to `num_steps`; `on_step(state, loss)` after each step.

    `on_step` saves checkpoints and shows progress; the state it is given stays valid
    only until it returns, since the next step reuses its memory.
    """
    key = jax.random.key(seed)
    for step in range(int(state.step), num_steps):
        images, labels = dataset.batch(seed, step, batch_size)
        step_key = jax.random.fold_in(key, step)
        state, loss = _update(
            state, objective, step_key, images, labels, optimiser=optimiser
        )
        on_step(state, loss)
    return state


@partial(jax.jit, static_argnames="optimiser", donate_argnums=0)
def _update(
    state: TrainState,
    objective: Any,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    optimiser: optax.GradientTransformation,
) -> tuple[TrainState, jax.Array]:
    loss, gradient = jax.value_and_grad(objective)(state.net, key, images, labels)
    updates, optimiser_state = optimiser.update(
        gradient, state.optimiser_state, state.net
    )
    net = optax.apply_updates(state.net, updates)
    rate = 1 - _ema_decay(state.step)
    return TrainState(
        net=net,
        ema=optax.incremental_update(net, state.ema, rate),
        optimiser_state=optimiser_state,
        step=state.step + 1,
    ), loss


def _ema_decay(step: jax.Array, longest: float = 0.999) -> jax.Array:
    """Average over about the last tenth of the run until that is a thousand steps."""
    return jnp.minimum(longest, (1 + step) / (10 + step))
