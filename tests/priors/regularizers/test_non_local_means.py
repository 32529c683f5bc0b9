"""Non-local means against the double loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors import NonLocalMeans
from tests.tolerances import EXACT64

SHAPE = (6, 7, 2)
IMAGE = np.random.default_rng(4).normal(size=SHAPE)


def _by_loops(image, variance, bandwidth, patch, window):
    """Return the image and the sums of weights, one pixel at a time."""
    border, reach = patch // 2, window // 2
    outside = border + reach
    wide = np.pad(image, ((outside,) * 2, (outside,) * 2, (0, 0)), "reflect")
    found = np.zeros_like(image)
    for i, j in np.ndindex(image.shape[:2]):
        here = wide[i + reach :, j + reach :][:patch, :patch]
        total = norm = 0.0
        for k, m in np.ndindex(window, window):
            there = wide[i + k :, j + m :][:patch, :patch]
            gap = np.mean((here - there) ** 2)
            weight = np.exp(-max(gap - 2 * variance, 0) / (bandwidth**2 * variance))
            total, norm = total + weight * there[border, border], norm + weight
        found[i, j] = total / norm
    return found


@pytest.mark.usefixtures("x64")
def test_it_is_the_double_loop():
    prior = NonLocalMeans.create(SHAPE, weight=0.5, bandwidth=0.7, patch=3, window=5)
    found = jax.jit(prior.prox)(jnp.asarray(IMAGE), 0.4)
    expected = _by_loops(IMAGE, 0.2, 0.7, 3, 5)
    np.testing.assert_allclose(found, expected, **EXACT64)
    assert np.max(np.abs(expected - IMAGE)) > 0.05
    assert IMAGE.min() <= found.min() <= found.max() <= IMAGE.max()


@pytest.mark.usefixtures("x64")
def test_limits():
    prior = NonLocalMeans.create(SHAPE, patch=3, window=5)
    denoise = jax.jit(prior.prox)
    for step in (1e-6, 0.0):
        np.testing.assert_allclose(denoise(jnp.asarray(IMAGE), step), IMAGE, **EXACT64)
    wide = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), "reflect")
    shifts = [wide[i : i + 6, j : j + 7] for i in range(5) for j in range(5)]
    box = denoise(jnp.asarray(IMAGE), 1e9)
    np.testing.assert_allclose(box, np.mean(shifts, axis=0), **EXACT64)
    flat = jnp.full(SHAPE, -0.4)
    np.testing.assert_allclose(denoise(flat, 0.1), flat, **EXACT64)


@pytest.mark.parametrize(
    "settings", [{"patch": 4}, {"window": 6}, {"patch": 5, "window": 9}]
)
def test_bad_input_is_named(settings):
    with pytest.raises(ValueError, match="odd sizes"):
        NonLocalMeans.create(SHAPE, **settings)
