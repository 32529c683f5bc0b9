"""Low rank: optimality of the nuclear norm, and what groups of patches must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors import (
    NonLocalLowRank,
    NuclearNorm,
    uniform_threshold,
    weighted_threshold,
)
from diffctl.priors.regularizers.patches import (
    all_patches,
    patch_grid,
    put_back,
    similar_patches,
)
from tests.tolerances import EXACT64

SHAPE = (10, 9, 2)
RNG = np.random.default_rng(9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 4), (4, 5, 2)])
def test_prox_of_the_nuclear_norm_is_optimal(shape):
    """G = (Y - X) / t is a subgradient: |G|_2 <= 1 and <G, X> = |X|_*."""
    prior, y = NuclearNorm.create(shape, 0.7), RNG.normal(size=shape)
    x = np.asarray(prior.prox(jnp.asarray(y), 2.0))
    g = (y - x) / (2.0 * 0.7)
    for channel in range(1 if len(shape) == 2 else shape[2]):
        pair = [m.reshape(*shape[:2], -1)[..., channel] for m in (g, x)]
        assert np.linalg.norm(pair[0], 2) <= 1 + 1e-12
        nuclear = np.linalg.norm(pair[1], "nuc")
        assert 0 < np.linalg.matrix_rank(pair[1]) < min(shape[:2])
        np.testing.assert_allclose(np.sum(pair[0] * pair[1]), nuclear, **EXACT64)
    total = 0.7 * np.sum(np.linalg.svd(np.moveaxis(np.atleast_3d(x), -1, 0))[1])
    np.testing.assert_allclose(prior.energy(jnp.asarray(x)), total, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_patches_are_found_by_brute_force_and_put_back():
    image = RNG.normal(size=SHAPE)
    patches = all_patches(jnp.asarray(image), 3)
    np.testing.assert_array_equal(np.asarray(patches[2, 4]), image[2:5, 4:7].ravel())
    reference = np.array([7, 1])  # at the border: the window is moved inside
    find = jax.jit(similar_patches, static_argnums=(2, 3))
    found = find(patches, jnp.asarray(reference), 4, 5)
    candidates = [(i, j) for i in range(4, 8) for j in range(4)]
    centre = image[7:10, 1:4]
    gaps = [np.sum((image[i : i + 3, j : j + 3] - centre) ** 2) for i, j in candidates]
    expected = [candidates[k] for k in np.argsort(gaps)[:5]]
    assert [tuple(p) for p in np.asarray(found).tolist()] == expected
    grid = patch_grid(SHAPE, size=3, stride=2, search=30)
    assert grid.search == 7
    assert {tuple(p) for p in grid.references} == {
        (i, j) for i in (0, 2, 4, 6, 7) for j in (0, 2, 4, 6)
    }
    at = jnp.asarray(grid.references)
    again = put_back(patches[at[:, 0], at[:, 1]], at, 3, SHAPE)
    np.testing.assert_allclose(again, image, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shrinkage", [weighted_threshold, uniform_threshold])
def test_groups_of_rank_one_lose_their_noise(shrinkage):
    """Stripes of two heights: patches are multiples of each other, but for means."""
    rows = np.where(np.arange(16) % 2, 0.8, -0.8)
    clean = (rows[:, None] * np.linspace(0.5, 1, 16)[None, :])[..., None]
    noise = 0.1 * np.random.default_rng(1).normal(size=clean.shape)
    prior = NonLocalLowRank.create(
        clean.shape, patch=4, stride=2, search=13, count=30, shrinkage=shrinkage
    )
    denoise = jax.jit(prior.prox)
    found = denoise(jnp.asarray(clean + noise), 0.01)
    error = np.sqrt(np.mean((found - clean) ** 2))
    assert error < 0.04  # of noise 0.1; measured 0.029 and 0.034
    flat = jnp.full(clean.shape, 0.3)
    np.testing.assert_allclose(denoise(flat, 0.01), flat, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_weights_spare_large_singular_values():
    s, noise_std, columns = np.array([9.0, 1.0, 0.2]), 0.1, 25
    found = weighted_threshold(jnp.asarray(s), jnp.asarray(noise_std), 16, columns)
    clean = np.sqrt(np.maximum(s**2 - columns * noise_std**2, 0))
    thresholds = 2 * np.sqrt(2 * columns) * noise_std**2 / np.maximum(clean, 1e-12)
    np.testing.assert_allclose(found, np.maximum(s - thresholds, 0), **EXACT64)
    uniform = uniform_threshold(jnp.asarray(s), jnp.asarray(noise_std), 16, columns)
    np.testing.assert_allclose(uniform, np.maximum(s - 0.9, 0), **EXACT64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NuclearNorm.create((4,), 1.0), r"expected \(rows, columns\)"),
        (lambda: NonLocalLowRank.create(SHAPE, patch=11), "patches of side 11"),
        (lambda: NonLocalLowRank.create(SHAPE, search=3), "count is 60"),
        (lambda: NonLocalLowRank.create((4, 4)), "height, width, channels"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
