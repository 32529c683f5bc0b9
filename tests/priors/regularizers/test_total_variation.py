"""Total variation against closed forms and the dual problem, solved by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

from diffctl.priors import TotalVariation
from tests.tolerances import EXACT64

SHAPE = (4, 3, 2)
RNG = np.random.default_rng(5)
IMAGE = RNG.normal(size=SHAPE)


def _matrix(prior):
    """Return K as a matrix, by probing."""
    basis = np.eye(np.prod(prior.shape)).reshape(-1, *prior.shape)
    columns = jax.vmap(prior.analysis)(jnp.asarray(basis))
    return np.asarray(columns).reshape(len(basis), -1).T


def _prox(prior, x, step=1.0, num_inner=3000):
    made = type(prior)(**{**vars(prior), "num_inner": num_inner})
    return np.asarray(jax.jit(made.prox)(jnp.asarray(x), jnp.asarray(step)))


@pytest.mark.usefixtures("x64")
def test_differences_and_their_transpose():
    prior = TotalVariation.isotropic(SHAPE, 1.0)
    found = np.asarray(prior.analysis(jnp.asarray(IMAGE)))
    np.testing.assert_allclose(found[0, :-1], IMAGE[1:] - IMAGE[:-1], **EXACT64)
    np.testing.assert_allclose(found[1, :, :-1], np.diff(IMAGE, axis=1), **EXACT64)
    assert not found[0, -1].any()
    assert not found[1, :, -1].any()
    z = RNG.normal(size=found.shape)
    pulled = prior.analysis_adjoint(jnp.asarray(z))
    np.testing.assert_allclose(pulled.ravel(), _matrix(prior).T @ z.ravel(), **EXACT64)
    norm = np.linalg.norm(_matrix(prior), 2)
    assert 0.8 * prior.analysis_norm() < norm <= prior.analysis_norm()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("y", "weight", "expected"),
    [
        ([0.0, 1.0], 0.3, [0.3, 0.7]),  # towards each other by the weight
        ([0.0, 1.0], 0.8, [0.5, 0.5]),  # until they meet
        ([0.0] * 10 + [1.0] * 10, 0.7, [0.07] * 10 + [0.93] * 10),
        ([0.4] * 6, 2.0, [0.4] * 6),
    ],
)
def test_steps_shrink_as_in_closed_form(y, weight, expected):
    prior = TotalVariation.isotropic((len(y),), 1.0, axes=(0,))
    np.testing.assert_allclose(_prox(prior, y, weight), expected, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_anisotropic_prox_is_that_of_the_dual_box():
    """x = y - K^T z with z = argmin |K^T z - y|^2 over |z| <= weight."""
    prior = TotalVariation.anisotropic(SHAPE, 0.25)
    matrix, y, radius = _matrix(prior), IMAGE.ravel(), 0.25 * 0.8
    dual = lsq_linear(matrix.T, y, (-radius, radius), method="bvls", tol=1e-14)
    expected = (y - matrix.T @ dual.x).reshape(SHAPE)
    found = _prox(prior, IMAGE, 0.8)
    # From zero, 3000 iterations: measured 4e-8.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean((0, 1)), IMAGE.mean((0, 1)), **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["isotropic", "vectorial"])
def test_the_duality_gap_closes(kind):
    """With a dual point found by projected gradients in NumPy; gap >= error^2 / 2."""
    prior = getattr(TotalVariation, kind)(SHAPE, 0.3)
    matrix, y = _matrix(prior), IMAGE.ravel()
    stack = (2, *SHAPE)

    def project(z):
        lengths = np.sqrt(np.sum(z.reshape(stack) ** 2, prior.group, keepdims=True))
        return (z.reshape(stack) / np.maximum(lengths / 0.3, 1)).ravel()

    z = ahead = np.zeros(matrix.shape[0])
    for k in range(3000):
        new = project(ahead - matrix @ (matrix.T @ ahead - y) / 8)
        z, ahead = new, new + k / (k + 3) * (new - z)
    dual = y @ (matrix.T @ z) - np.sum((matrix.T @ z) ** 2) / 2
    x = _prox(prior, IMAGE)
    primal = np.sum((x - IMAGE) ** 2) / 2 + prior.energy(jnp.asarray(x))
    assert abs(primal - dual) < 1e-9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "vectorial"])
def test_the_prox_of_the_split_form_is_a_minimum(kind):
    """argmin_w step F(w) + |w - z|^2 / 2: no small change is better."""
    prior = getattr(TotalVariation, kind)(SHAPE, 0.3)
    z = RNG.uniform(0.02, 0.4, size=(1, 4, 3, 1)) * RNG.choice([-1, 1], (2, *SHAPE))
    w = np.asarray(prior.analysis_prox(jnp.asarray(z), 0.9))
    lengths = np.sqrt(np.sum(w**2, axis=prior.group, keepdims=True))
    moved = lengths > 0
    assert 0 < moved.mean() < 1
    pull = z - w
    expected = 0.9 * 0.3 * w / np.where(moved, lengths, 1)
    on = np.broadcast_to(moved, w.shape)
    np.testing.assert_allclose(pull[on], expected[on], **EXACT64)
    off = np.sqrt(np.sum(pull**2, axis=prior.group, keepdims=True))[~moved]
    assert np.all(off <= 0.9 * 0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((SHAPE, 0.0), "weight is 0.0"), ((SHAPE, 1.0, (0, 3)), r"axes are \(0, 3\)")],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TotalVariation.isotropic(*arguments)
