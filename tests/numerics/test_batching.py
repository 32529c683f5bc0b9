"""Chunks give what one vmap gives in less memory; what no example needs is skipped."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import chunked_vmap, computed_where
from diffctl.numerics.compiled import memory_analysis
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
        return memory_analysis(lowered).temp_size_in_bytes

    assert temporaries(2) < 0.5 * temporaries(None)


def test_chunk_size_is_checked():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        chunked_vmap(_value_and_gradient, 0)


def _doubled(needed, x, ran):
    """Double x where needed; note each time that it is computed."""

    def double():
        jax.debug.callback(lambda: ran.append(True))
        return 2 * x

    return computed_where(needed, double, x)


@pytest.mark.parametrize("needed", [[False] * 3, [False, True, False], [True] * 3])
def test_what_no_example_needs_is_skipped(needed):
    ran, x = [], jnp.asarray([1.0, 2.0, 3.0])
    flags = jnp.asarray(needed)
    batched = jax.jit(jax.vmap(lambda flag, x: _doubled(flag, x, ran)))
    chex.assert_trees_all_equal(batched(flags, x), jnp.where(flags, 2 * x, x))
    jax.effects_barrier()
    assert bool(ran) == any(needed)


def test_a_single_example_and_nested_batches():
    x = jnp.arange(6.0).reshape(2, 3)
    flags = jnp.asarray([[True, False, True], [False, False, False]])
    twice = jax.vmap(jax.vmap(lambda flag, x: computed_where(flag, lambda: 2 * x, x)))
    chex.assert_trees_all_equal(twice(flags, x), jnp.where(flags, 2 * x, x))
    ran = []
    assert _doubled(jnp.asarray(False), x[0, 1], ran) == x[0, 1]
    jax.effects_barrier()
    assert not ran


def test_what_is_computed_where_needed_has_derivatives():
    def square(x):
        return computed_where(x > 1, lambda: x**2, x)

    x = jnp.asarray([0.5, 3.0])
    chex.assert_trees_all_equal(jax.vmap(jax.grad(square))(x), jnp.asarray([1.0, 6.0]))
    total = jax.grad(lambda x: jnp.sum(jax.vmap(square)(x)))
    chex.assert_trees_all_equal(total(x), jnp.asarray([1.0, 6.0]))
    chex.assert_trees_all_equal(jax.jvp(square, (x[1],), (1.0,))[1], 6.0)


def test_weights_are_not_copied_for_every_example():
    weights, x = np.ones((256, 256), np.float32), np.ones((16, 256), np.float32)

    def step(flag, x, weights):
        return computed_where(flag, lambda: jnp.tanh(weights @ x), x)

    batched = jax.jit(jax.vmap(step, (0, 0, None)))
    lowered = batched.lower(np.ones(16, bool), x, weights)
    assert memory_analysis(lowered).temp_size_in_bytes < weights.nbytes
