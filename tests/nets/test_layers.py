"""Blocks against plain NumPy, and the traps of normalisation in float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffctl.nets.blocks import BlockStyle, ResBlock
from diffctl.nets.layers import (
    Conv,
    FourierFeatures,
    GroupNorm,
    Linear,
    depth_to_space,
    mean_pool,
    space_to_depth,
    upsample_nearest,
)
from tests.tolerances import EXACT32, EXACT64, NET_BF16

CHANNELS, GROUPS = 6, 2


def _image(seed=0, size=4, channels=CHANNELS):
    return np.random.default_rng(seed).normal(size=(size, size, channels))


def _perturbed(module, seed=1):
    """Replace every parameter, so that none is zero or one by initialisation."""
    leaves, structure = jax.tree.flatten(module)
    rng = np.random.default_rng(seed)
    values = [jnp.asarray(rng.normal(size=leaf.shape) / 3) for leaf in leaves]
    return jax.tree.unflatten(structure, values)


def _group_norm(x, scale, bias, groups, epsilon=1e-5):
    split = x.reshape(*x.shape[:2], groups, -1)
    mean = split.mean(axis=(0, 1, 3), keepdims=True)
    var = split.var(axis=(0, 1, 3), keepdims=True)
    return ((split - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * scale + bias


@pytest.mark.usefixtures("x64")
def test_group_norm_is_the_textbook_formula():
    norm = _perturbed(GroupNorm(CHANNELS, groups=GROUPS))
    scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    expected = _group_norm(_image(), scale, bias, GROUPS)
    found = norm(jnp.asarray(_image()))
    chex.assert_trees_all_close(np.asarray(found), expected, **EXACT64)
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 groups"):
        GroupNorm(CHANNELS, groups=4)


def test_group_norm_survives_an_offset():
    """Mean 100, std 0.01 in float32, where a one-pass variance is off by 6."""
    x = (100 + 0.01 * _image()).astype(np.float32)
    norm = GroupNorm(CHANNELS, groups=GROUPS)
    expected = _group_norm(x.astype(np.float64), 1.0, 0.0, GROUPS)
    # The mean is rounded to 4e-6 and its std is 1e-2. Measured: 3e-4.
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=0, atol=2e-3)


def test_group_norm_accumulates_half_precision_in_float32():
    x = jnp.asarray(3 + _image(), jnp.bfloat16)
    norm = GroupNorm(CHANNELS, groups=GROUPS)
    found = norm(x)
    assert found.dtype == jnp.bfloat16
    expected = _group_norm(np.asarray(x, np.float64), 1.0, 0.0, GROUPS)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, **NET_BF16)


@pytest.mark.usefixtures("x64")
def test_attention_is_softmax_of_scaled_products():
    block = _perturbed(BlockStyle(groups=GROUPS).attention(CHANNELS, 2, nnx.Rngs(0)))
    x = _image()
    normed = np.asarray(block.norm(jnp.asarray(x))).reshape(-1, CHANNELS)
    qkv = normed @ np.asarray(block.qkv.kernel[...]) + np.asarray(block.qkv.bias[...])
    query, key, value = qkv.reshape(-1, 3, 2, CHANNELS // 2).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(CHANNELS // 2)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = (weights @ value).transpose(1, 0, 2).reshape(-1, CHANNELS)
    out = mixed @ np.asarray(block.out.kernel[...]) + np.asarray(block.out.bias[...])
    found = block(jnp.asarray(x))
    chex.assert_trees_all_close(np.asarray(found), x + out.reshape(x.shape), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_residual_block_scales_and_shifts_by_the_embedding():
    """Scale and shift act between the second norm and its nonlinearity."""
    make = {"style": BlockStyle(groups=GROUPS), "embedding": 5, "rngs": nnx.Rngs(0)}
    block = _perturbed(ResBlock(CHANNELS, 4, **make))
    x, embedding = jnp.asarray(_image()), jnp.linspace(-1.0, 1.0, 5)
    scale, shift = np.split(np.asarray(block.modulation(embedding)), 2)
    h = block.conv1(jax.nn.silu(block.norm1(x)))
    modulated = np.asarray(block.norm2(h)) * (1 + scale) + shift
    expected = block.conv2(jax.nn.silu(jnp.asarray(modulated))) + block.skip(x)
    chex.assert_trees_all_close(block(x, embedding), expected, **EXACT64)
    assert jnp.max(jnp.abs(block(x, 2 * embedding) - expected)) > 1e-2

    same = ResBlock(CHANNELS, CHANNELS, **make)
    chex.assert_trees_all_equal(same(x, embedding), x)  # the identity at first


def test_initial_parameters_keep_the_variance():
    conv = Conv(32, 64, rngs=nnx.Rngs(0))
    linear = Linear(288, 64, gain=2.0, rngs=nnx.Rngs(1))
    # 18432 draws each: the standard error of a standard deviation is 0.5 %.
    np.testing.assert_allclose(conv.kernel[...].std(), 288**-0.5, rtol=0.02)
    np.testing.assert_allclose(linear.kernel[...].std(), 2 * 288**-0.5, rtol=0.02)
    assert not jnp.any(conv.bias[...]) and not jnp.any(linear.bias[...])


def test_rearrangements_of_pixels():
    x = jnp.asarray(_image(size=4), jnp.float32)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 2, 4 * CHANNELS)
    patch = np.asarray(x)[2:4, 0:2].reshape(-1)
    chex.assert_trees_all_equal(np.asarray(folded[1, 0]), patch)
    chex.assert_trees_all_equal(depth_to_space(folded, 2), x)
    pooled = np.asarray(x)[0:2, 2:4].mean(axis=(0, 1))
    chex.assert_trees_all_close(np.asarray(mean_pool(x)[0, 1]), pooled, **EXACT32)
    chex.assert_trees_all_close(mean_pool(upsample_nearest(x)), x, **EXACT32)
    chex.assert_trees_all_equal(
        np.asarray(upsample_nearest(x)), np.asarray(x).repeat(2, 0).repeat(2, 1)
    )


def test_fourier_features_are_geometric():
    features = FourierFeatures(3, lowest=0.5, highest=8.0)
    angles = 0.7 * np.array([0.5, 2.0, 8.0])
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    np.testing.assert_allclose(features(jnp.float32(0.7)), expected, **EXACT32)
