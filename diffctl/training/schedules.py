"""Learning-rate schedules with a linear warm-up."""

import optax


def constant(peak: float, *, warmup: int) -> optax.Schedule:
    """Rise linearly to `peak` over `warmup` steps and stay there."""
    return optax.linear_schedule(0.0, peak, warmup)


def cosine(peak: float, *, warmup: int, num_steps: int) -> optax.Schedule:
    """Rise linearly to `peak`, then fall to zero along half a cosine by `num_steps`."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)
