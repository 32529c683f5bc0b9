"""Chunks give what one vmap gives, with less temporary memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import chunked_vmap
from tests.tolerances import REORDER32


def _value_and_gradient(x, tree):
    """Two arguments, one of them a pytree; the result is a pytree as well."""
    return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(x) @ tree["w"]))(x)


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 7, 100])
def test_equals_vmap_with_any_remainder(chunk_size):
    draw = np.random.default_rng(0).normal
    x, tree = draw(size=(7, 3)), {"w": draw(size=(7, 3, 2))}

    def compare(x, tree):
        everything_at_once = chunked_vmap(_value_and_gradient)
        in_chunks = chunked_vmap(_value_and_gradient, chunk_size)
        return in_chunks(x, tree), everything_at_once(x, tree)

    found, expected = jax.jit(compare)(x, tree)
    chex.assert_trees_all_close(found, expected, **REORDER32)


def test_derivatives_pass_through():
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    chunked = chunked_vmap(lambda row: jnp.sum(jnp.sin(row)), 2)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(chunked(x))))(x)
    chex.assert_trees_all_close(gradient, np.cos(x), **REORDER32)


def test_chunks_need_less_memory():
    def wide(x):
        return jnp.sum(jnp.sin(jnp.outer(x, x)) @ jnp.cos(jnp.outer(x, x)))

    def temporaries(chunk_size):
        lowered = jax.jit(chunked_vmap(wide, chunk_size)).lower(np.ones((16, 64)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2) < 0.5 * temporaries(None)


def test_chunk_size_is_checked():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        chunked_vmap(_value_and_gradient, 0)
