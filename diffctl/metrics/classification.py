"""How often a classifier recognises what it should."""

import jax
import jax.numpy as jnp


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the share of examples whose largest logit is that of the label, ().

    Args:
        logits: (..., num_classes).
        labels: integers, (...); () for one example, which gives 0 or 1.
    """
    if not jnp.size(labels):
        raise ValueError("there are no labels to average over; expected at least one.")
    hit = jnp.argmax(logits, axis=-1) == labels
    return jnp.mean(hit, dtype=logits.dtype)
