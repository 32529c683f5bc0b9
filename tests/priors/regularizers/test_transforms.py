"""Transforms against SciPy and published filters; sparsity against its optimality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from diffctl.priors import CycleSpinning, Orthonormal, Sparsity
from diffctl.priors.regularizers.transforms import daubechies
from tests.tolerances import EXACT32, EXACT64

SHAPE = (8, 12, 2)
IMAGE = np.random.default_rng(6).normal(size=SHAPE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Orthonormal.cosines(SHAPE),
        lambda: Orthonormal.cosines(SHAPE, block=4),
        lambda: Orthonormal.cosines(SHAPE, num_axes=1),
        lambda: Orthonormal.wavelets(SHAPE),
        lambda: Orthonormal.wavelets(SHAPE, moments=2, num_levels=2),
        lambda: Orthonormal.wavelets(SHAPE, moments=4, num_levels=2),
    ],
)
def test_they_are_orthonormal(make):
    transform, size = make(), IMAGE.size
    basis = jnp.eye(size).reshape(size, *SHAPE)
    matrix = np.asarray(jax.vmap(transform.forward)(basis)).reshape(size, size).T
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), **EXACT64)
    z = np.random.default_rng(7).normal(size=SHAPE)
    pulled = np.asarray(transform.inverse(jnp.asarray(z))).ravel()
    np.testing.assert_allclose(pulled, matrix.T @ z.ravel(), **EXACT64)
    # Constants are seen by averages alone.
    found = transform.forward(jnp.ones(SHAPE)) * transform.detail
    np.testing.assert_allclose(found, 0, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_cosines_are_those_of_scipy():
    found = Orthonormal.cosines(SHAPE).forward(jnp.asarray(IMAGE))
    expected = dctn(IMAGE, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(found, expected, **EXACT64)
    blocks = Orthonormal.cosines(SHAPE, block=4)
    found = np.asarray(blocks.forward(jnp.asarray(IMAGE)))[4:, 8:]
    expected = dctn(IMAGE[4:, 8:], axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(found, expected, **EXACT64)
    assert np.sum(blocks.detail == 0) == 6


def test_filters_are_those_of_daubechies():
    root = np.sqrt(3)
    published = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    np.testing.assert_allclose(daubechies(1), [0.5**0.5] * 2, **EXACT64)
    np.testing.assert_allclose(daubechies(2), published, **EXACT64)
    for moments in range(1, 11):
        low = daubechies(moments)
        high = low[::-1] * (-1.0) ** np.arange(low.size)
        places = np.linspace(-1, 1, low.size)
        vanishing = [high @ places**k for k in range(moments)]
        # The largest polynomial's roots have lost five digits: measured 2e-11.
        np.testing.assert_allclose(vanishing, 0, atol=1e-9)
        overlaps = [low[2 * k :] @ low[: low.size - 2 * k] for k in range(moments)]
        np.testing.assert_allclose(overlaps, np.eye(moments)[0], **EXACT64)


@pytest.mark.usefixtures("x64")
def test_haar_averages_two_by_two():
    transform = Orthonormal.wavelets(SHAPE, num_levels=1)
    corner = np.asarray(transform.forward(jnp.asarray(IMAGE)))[:4, :6]
    means = IMAGE.reshape(4, 2, 6, 2, 2).mean((1, 3))
    np.testing.assert_allclose(corner, 2 * means, **EXACT64)
    assert np.sum(transform.detail == 0) == 24


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["wavelets", "cosines"])
def test_prox_is_optimal(kind):
    """z - x + step weight (a subgradient of |Psi z|_1) = 0, averages unpenalised."""
    prior = getattr(Sparsity, kind)(SHAPE, 0.8)
    z = prior.prox(jnp.asarray(IMAGE), 0.5)
    pull = np.asarray(prior.transform.forward(IMAGE - z)) / (0.5 * 0.8)
    coefficients = np.asarray(prior.transform.forward(z))
    detail = np.broadcast_to(np.asarray(prior.transform.detail) == 1, SHAPE)
    support = np.abs(coefficients) > 1e-12
    assert 0.1 < support[detail].mean() < 0.9
    np.testing.assert_allclose(pull[~detail], 0, atol=1e-12)
    on = detail & support
    np.testing.assert_allclose(pull[on], np.sign(coefficients[on]), **EXACT64)
    assert np.max(np.abs(pull[detail & ~support])) <= 1 + 1e-12
    energy = 0.8 * np.sum(np.abs(coefficients[detail]))
    np.testing.assert_allclose(prior.energy(z), energy, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_cycle_spinning_treats_shifted_images_alike():
    inner = Sparsity.wavelets(SHAPE, 0.8, num_levels=1)
    prior = CycleSpinning(inner=inner)
    x = jnp.asarray(IMAGE)
    moved = [p.prox(jnp.roll(x, (1, 1), (0, 1)), 0.5) for p in (prior, inner)]
    still = [jnp.roll(p.prox(x, 0.5), (1, 1), (0, 1)) for p in (prior, inner)]
    np.testing.assert_allclose(moved[0], still[0], **EXACT64)
    assert np.max(np.abs(moved[1] - still[1])) > 0.1


@pytest.mark.parametrize("shape", [(6, 6, 1), (2, 2), (6, 8), (10, 4, 3)])
def test_small_images_are_halved_once(shape):
    transform, x = Orthonormal.wavelets(shape), jnp.ones(shape)
    assert len(transform.levels) == 1
    np.testing.assert_allclose(transform.inverse(transform.forward(x)), x, **EXACT32)
    # Of constants nothing but averages is left.
    found = transform.forward(x)
    averages = np.where(transform.detail == 0, 2.0, 0.0)
    np.testing.assert_allclose(found, np.broadcast_to(averages, shape), **EXACT32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orthonormal.wavelets((6, 8), num_levels=2), "halved 1 to 1 times"),
        (lambda: Orthonormal.wavelets((7, 8)), r"\(7, 8\) cannot be halved"),
        (lambda: Orthonormal.wavelets((8, 8), moments=11), "moments is 11"),
        (lambda: Orthonormal.cosines((8, 8), block=3), "divisor"),
        (lambda: Orthonormal.cosines((8,)), "num_axes is 2"),
        (lambda: Sparsity.cosines((8, 8), -1.0), "weight is -1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
