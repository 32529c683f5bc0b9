"""Resampling filters, sinusoids and pooling against plain NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffctl.nets import blocks
from diffctl.nets.blocks import (
    AttentionPool,
    BlockStyle,
    FilterDown,
    FilterUp,
    ResBlock,
)
from diffctl.nets.embeddings import FourierWaves, Sinusoid
from diffctl.nets.layers import mean_pool, upsample_nearest
from diffctl.nets.mnist import max_pool
from tests.tolerances import EXACT32, EXACT64

TAPS = (1, 3, 3, 1)


def _image(size=6, channels=2):
    return np.random.default_rng(0).normal(size=(size, size, channels))


def _filtered(x, taps, pad):
    """Every second output of a two-dimensional correlation, by loops."""
    kernel = np.outer(taps, taps) / np.sum(taps) ** 2
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    count, side = (len(x) - len(taps)) // 2 + 1, len(taps)
    out = np.zeros((count, count, x.shape[2]))
    for i in range(count):
        for j in range(count):
            window = x[2 * i : 2 * i + side, 2 * j : 2 * j + side]
            out[i, j] = np.einsum("ab,abc->c", kernel, window)
    return out


@pytest.mark.parametrize(("taps", "pad"), [(TAPS, 1), (TAPS, 0), ((1, 1), 0)])
@pytest.mark.usefixtures("x64")
def test_filters_downwards(taps, pad):
    found = FilterDown(taps, pad)(jnp.asarray(_image()))
    expected = _filtered(_image(), taps, pad)
    chex.assert_trees_all_close(np.asarray(found), expected, **EXACT64)


@pytest.mark.parametrize("taps", [TAPS, (1, 1)])
@pytest.mark.usefixtures("x64")
def test_upwards_is_four_times_the_adjoint_of_downwards(taps):
    down = FilterDown(taps, (len(taps) - 1) // 2)
    x, y = jnp.asarray(_image(8)), jnp.asarray(_image(4))
    left = 4 * jnp.vdot(down(x), y)
    np.testing.assert_allclose(left, jnp.vdot(x, FilterUp(taps)(y)), **EXACT64)


def test_the_box_is_mean_and_nearest():
    x = jnp.asarray(_image(), jnp.float32)
    chex.assert_trees_all_close(FilterDown((1, 1), 0)(x), mean_pool(x), **EXACT32)
    chex.assert_trees_all_close(FilterUp((1, 1))(x), upsample_nearest(x), **EXACT32)


def test_sinusoids_by_formula():
    value = jnp.float32(3.7)
    for shift, sines_first in ((0, False), (1, True)):
        angles = 3.7 * 10000.0 ** (-np.arange(4) / (4 - shift))
        halves = [np.cos(angles), np.sin(angles)]
        expected = np.concatenate(halves[::-1] if sines_first else halves)
        found = Sinusoid(8, shift=shift, sines_first=sines_first)(value)
        np.testing.assert_allclose(found, expected, **EXACT32)
    with pytest.raises(ValueError, match="even width above 2; got 2"):
        Sinusoid(2, shift=1)


def test_random_frequencies_are_not_trained():
    waves = FourierWaves(8, rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda waves: waves(jnp.float32(0.3)).sum())(waves)
    assert not jnp.any(gradient.frequencies[...])
    angles = 0.3 * 2 * np.pi * np.asarray(waves.frequencies[...])
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    # Angles up to a few hundred in float32; measured 1e-5.
    np.testing.assert_allclose(waves(jnp.float32(0.3)), expected, atol=1e-4)


def test_resampling_blocks_resample_both_paths():
    style = BlockStyle(groups=2, modulation=None, gain=0.5)
    block = ResBlock(4, 4, style=style, resample=mean_pool, rngs=nnx.Rngs(0))
    x = jnp.asarray(_image(channels=4), jnp.float32)
    # The last convolution starts at zero, which leaves the skip.
    chex.assert_trees_all_close(block(x), 0.5 * mean_pool(x), **EXACT32)
    assert block.skip is None and block.modulation is None
    projected = BlockStyle(groups=2, modulation=None, project_resampled=True)
    assert ResBlock(4, 4, style=projected, rngs=nnx.Rngs(0)).skip is None
    resampled = ResBlock(4, 4, style=projected, resample=mean_pool, rngs=nnx.Rngs(0))
    assert resampled.skip is not None


def test_groups_shrink_with_the_channels_where_the_style_says_so():
    style = BlockStyle(groups=32, group_width=4)
    assert [style.norm(width).groups for width in (16, 64, 256)] == [4, 16, 32]
    with pytest.raises(ValueError, match="16 channels cannot be split into 32 groups"):
        BlockStyle(groups=32).norm(16)


@pytest.mark.usefixtures("x64")
def test_attention_pool_without_scores_is_the_mean_of_values():
    """With zero queries every token weighs the same, the mean's token included."""
    pool = AttentionPool(4, 2, 3, heads=2, rngs=nnx.Rngs(0))
    kernel = np.array(pool.qkv.kernel[...], np.float64)
    kernel[:, :2] = 0
    pool.qkv.kernel[...] = jnp.asarray(kernel)
    x = _image(2)
    pixels = x.reshape(4, 2)
    tokens = np.concatenate([pixels.mean(0, keepdims=True), pixels])
    values = (tokens @ kernel)[:, 4:]
    expected = values.mean(0) @ np.asarray(pool.out.kernel[...], np.float64)
    found = pool(jnp.asarray(x))
    # The parameters are drawn in float32 or float64, by the default of the moment.
    np.testing.assert_allclose(found, expected, **EXACT32)
    with pytest.raises(ValueError, match="5 channels cannot be split into 2 attention"):
        AttentionPool(4, 5, 3, heads=2, rngs=nnx.Rngs(0))


def test_maxima_drop_an_odd_edge():
    x = jnp.arange(25.0).reshape(5, 5, 1)
    np.testing.assert_array_equal(max_pool(x)[..., 0], [[6, 8], [16, 18]])


@pytest.mark.usefixtures("x64")
def test_long_attention_in_turns_is_the_same(monkeypatch):
    """Five queries at a time of sixteen: the last turn is shorter."""
    rng = np.random.default_rng(7)
    query, key, value = (jnp.asarray(rng.normal(size=(16, 2, 3))) for _ in range(3))

    def both(query):
        return jax.vjp(lambda q: blocks.attend(q, key, value), query)[1](value)

    expected = blocks.attend(query, key, value), both(query)
    monkeypatch.setattr(blocks, "MOST_SCORES", 5 * 16 * 2)
    found = blocks.attend(query, key, value), both(query)
    chex.assert_trees_all_close(found, expected, **EXACT64)
    # The scores of all queries together appear in the short form only.
    text = str(jax.make_jaxpr(lambda q: blocks.attend(q, key, value))(query))
    assert "[2,16,16]" not in text and "scan" in text
