"""Labels of 0, tiny and large ones, against float64: compiled, mapped and eager.

At sigma = 1 the label of EDM and of consistency models is exactly 0.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffctl.nets.adm import ADMUNet
from diffctl.nets.embeddings import FourierWaves, Sinusoid, TimeEmbedding
from diffctl.nets.layers import FourierFeatures, GroupNorm
from diffctl.priors.preconditioning import (
    ConsistencyPreconditioning,
    EDMPreconditioning,
    VEPreconditioning,
)
from tests.tolerances import EXACT32, NET32

LABELS = np.float32([0, -0.0, 1e-45, -1e-38, 1e-8, 1e-3, -0.3, 1, -749, 749, 999, 1e4])
WAVES = FourierWaves(16, rngs=nnx.Rngs(0))
DRAWN = 2 * np.pi * np.asarray(WAVES.frequencies[...], np.float64)
# The features, their frequencies and how many times its rounding an angle is off.
FEATURES = {
    "sinusoid": (Sinusoid(16), 10000 ** (-np.arange(8) / 8), 1),
    "shifted": (Sinusoid(16, shift=1), 10000 ** (-np.arange(8) / 7), 1),
    "drawn": (WAVES, DRAWN, 3),  # the factor 2 pi is rounded, and the product with it
    # exp(log(48) i / 15) in single precision: measured 4.
    "geometric": (FourierFeatures(16, lowest=0.5, highest=24.0), None, 10),
    "one frequency": (FourierFeatures(1, lowest=0.5, highest=24.0), [0.5], 1),
}


def _expected(label, frequencies):
    if frequencies is None:
        frequencies = np.geomspace(0.5, 24, 16)
    angles = np.float64(label) * np.asarray(frequencies)
    return angles, np.concatenate([np.cos(angles), np.sin(angles)])


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_every_label(name):
    features, frequencies, roundings = FEATURES[name]
    runs = {
        "eager": [features(jnp.asarray(label)) for label in LABELS],
        "compiled": [jax.jit(features)(label) for label in LABELS],
        "mapped": jax.jit(jax.vmap(features))(jnp.asarray(LABELS)),
    }
    for how, rows in runs.items():
        for label, found in zip(LABELS, rows, strict=True):
            angles, expected = _expected(label, frequencies)
            bound = 1e-7 + roundings * np.max(np.abs(angles)) * 2.0**-23
            error = np.abs(np.asarray(found, np.float64) - expected).max()
            assert error <= bound, (how, label, error, bound)
            if label == 0:
                assert np.all(np.abs(expected - np.asarray(found)) == 0), how


@pytest.mark.parametrize("name", FEATURES)
def test_labels_of_any_type(name):
    """An integer label is the same number; half precision is not kept for angles."""
    features = FEATURES[name][0]
    expected = features(jnp.float32(3))
    for label in (3, 3.0, np.int64(3), jnp.int32(3), jnp.bfloat16(3), jnp.uint8(3)):
        chex.assert_trees_all_equal(features(label), expected)


def test_the_label_of_one_is_exactly_zero():
    for rule, sigma in (
        (EDMPreconditioning(), 1.0),
        (EDMPreconditioning(noise_gain=250.0), 1.0),
        (ConsistencyPreconditioning(), 1.0),
        (VEPreconditioning(), 2.0),
    ):
        assert rule(jnp.float32(sigma)).noise == 0, rule
        assert jax.jit(type(rule).__call__)(rule, jnp.float32(sigma)).noise == 0, rule


@pytest.mark.parametrize("gain", [0.25, 250.0])
def test_labels_near_zero_keep_their_digits(gain):
    """ln(sigma) beside 1, where a series matters."""
    near = np.float32(1) + np.float32([-(2.0**-24), 2.0**-23, 1e-5, -1e-4, 1e-2])
    found = jax.jit(jax.vmap(lambda s: EDMPreconditioning(noise_gain=gain)(s).noise))(
        near
    )
    np.testing.assert_allclose(found, gain * np.log(near.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("zero", ["table", "bias", "everything"])
def test_an_embedding_of_zeros_is_finite(zero):
    embed = TimeEmbedding(Sinusoid(8), 16, rngs=nnx.Rngs(0))
    if zero == "everything":
        embed = jax.tree.map(jnp.zeros_like, embed)
    elif zero == "bias":
        embed.linear1.kernel = jax.tree.map(jnp.zeros_like, embed.linear1.kernel)
    run = jax.jit(lambda label: embed(label, None, jnp.float32))
    gradient = jax.jit(jax.grad(lambda label: embed(label, None, jnp.float32).sum()))
    for label in (0.0, -0.0, 1e-30, 1e4):
        assert jnp.all(jnp.isfinite(run(label))) and jnp.isfinite(gradient(label))


def test_a_network_at_label_zero_agrees_with_double_precision():
    net = ADMUNet(
        channels=[1, 1],
        width=32,
        levels=[{"width": 32, "blocks": 1, "heads": 2}],
        middle_heads=2,
        rngs=nnx.Rngs(0),
    )
    leaves, structure = jax.tree.flatten(net)
    rng = np.random.default_rng(0)
    drawn = [0.2 * rng.normal(size=leaf.shape) for leaf in leaves]
    x = rng.normal(size=(8, 8, 1))

    apply = jax.jit(lambda net, x, label: net(x, label))

    def run(dtype, label):
        arrays = [jnp.asarray(leaf, dtype) for leaf in drawn]
        net = jax.tree.unflatten(structure, arrays)
        return np.asarray(apply(net, jnp.asarray(x, dtype), jnp.asarray(label, dtype)))

    for label in (0.0, -0.0, 1e-30, 693.0):
        found = run(np.float32, label)
        with jax.enable_x64(True):
            expected = run(np.float64, label)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, **NET32)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 0.1, 7.3])
@pytest.mark.parametrize("size", [1, 7, 28])
def test_the_norm_of_a_constant_map_is_zero(level, size):
    norm = GroupNorm(8, groups=4)
    x = jnp.full((size, size, 8), level, jnp.float32)
    # The mean is off by roundings of the level, which the norm divides by the root of
    # its epsilon of 1e-5. Measured: 4.4 roundings.
    bound = 8 * abs(level) * 2.0**-23 / np.sqrt(1e-5)
    for run in (norm, jax.jit(norm)):
        assert jnp.max(jnp.abs(run(x))) <= bound
    gradient = jax.jit(jax.grad(lambda x: norm(x).sum()))(x)
    np.testing.assert_allclose(gradient, 0, atol=EXACT32["atol"] / np.sqrt(1e-5))
