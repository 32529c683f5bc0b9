"""Shrinkage against NumPy, and its derivatives where an SVD has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics.shrinkage import (
    group_threshold,
    map_singular_values,
    soft_threshold,
)
from diffctl.priors.regularizers import NuclearNorm, TotalVariation
from tests.tolerances import EXACT32, EXACT64, FD64

RNG = np.random.default_rng(3)


def _soft(s, threshold):
    return jnp.maximum(s - threshold, 0)


def _repeated(rows, columns):
    """Singular values 2, 2, 0.5, 0: two equal, one below the threshold, one zero."""
    left = np.linalg.qr(RNG.normal(size=(rows, 4)))[0]
    right = np.linalg.qr(RNG.normal(size=(columns, 4)))[0]
    return (left * [2.0, 2.0, 0.5, 0.0]) @ right.T


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_groups_are_shortened_in_any_unit(unit):
    z = jnp.asarray([[3 * unit, 4 * unit], [0, 0]], jnp.float32)
    found = group_threshold(z, jnp.float32(unit), (1,)) / unit
    expected = jnp.asarray([[2.4, 3.2], [0, 0]], jnp.float32)
    np.testing.assert_allclose(found, expected, **EXACT32)


@pytest.mark.usefixtures("x64")
def test_entries_and_groups_are_shortened():
    z = RNG.normal(size=(2, 5))
    z[:, 0] = 0
    found = soft_threshold(jnp.asarray(z), 0.7)
    np.testing.assert_allclose(found, z - np.clip(z, -0.7, 0.7), **EXACT64)
    lengths = np.linalg.norm(z, axis=0)
    for j, length in enumerate(lengths):
        expected = z[:, j] * max(0, 1 - 0.7 / max(length, 1e-300))
        column = group_threshold(jnp.asarray(z), 0.7, (0,))[:, j]
        np.testing.assert_allclose(column, expected, **EXACT64)
    alone = group_threshold(jnp.asarray(z), 0.7, ())
    np.testing.assert_allclose(alone, found, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [(6, 4), (4, 6), (4, 4)])
def test_singular_values_are_mapped_with_their_derivatives(size):
    generic, change = RNG.normal(size=size), RNG.normal(size=size)
    u, s, vt = np.linalg.svd(generic, full_matrices=False)

    @jax.jit
    def shrink(matrix, threshold):
        return map_singular_values(_soft, matrix, threshold)

    threshold = float(s[1] + s[2]) / 2
    expected = (u * np.maximum(s - threshold, 0)) @ vt
    np.testing.assert_allclose(shrink(generic, threshold), expected, **EXACT64)
    for matrix, at in ((generic, threshold), (_repeated(*size), 0.9)):
        tangents = (change, 0.3)
        _, found = jax.jvp(shrink, (matrix, at), tangents)
        step = 1e-6
        ends = [
            shrink(matrix + sign * step * change, at + sign * step * 0.3)
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), **FD64)
        _, pull_back = jax.vjp(shrink, matrix, at)
        weights = RNG.normal(size=size)
        on_matrix, on_threshold = pull_back(jnp.asarray(weights))
        np.testing.assert_allclose(
            np.sum(on_matrix * change) + 0.3 * on_threshold,
            np.sum(weights * found),
            **EXACT64,
        )


def _identity(s, threshold):
    return s - threshold


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "shrink",
    [
        lambda z: soft_threshold(z, 0.0),
        lambda z: group_threshold(z, 0.0, (0,)),
        lambda z: map_singular_values(_identity, z[..., 0], 0.0)[..., None],
        lambda z: NuclearNorm.create(z.shape, 0.5).prox(z, 0.0),
        lambda z: TotalVariation.isotropic(z.shape, 0.5, (0, 1)).prox(z, 0.0),
    ],
)
def test_no_threshold_is_the_identity_with_its_derivative(shrink):
    """At zeros, which most groups of an image are, and at matrices of low rank."""
    change = jnp.asarray(RNG.normal(size=(4, 4, 1)))
    differentiated = jax.jit(lambda z, along: jax.jvp(shrink, (z,), (along,)))
    for z in (jnp.zeros_like(change), jnp.ones_like(change)):
        found, tangent = differentiated(z, change)
        np.testing.assert_allclose(found, z, **EXACT64)
        np.testing.assert_allclose(tangent, change, **EXACT64)
