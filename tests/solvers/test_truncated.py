"""Tiny singular values: noise-free solvers explode on them, unless they are cut off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import DiffusionPrior
from diffctl.operators import (
    GaussianNoise,
    Identity,
    Problem,
    SeparableBlur,
    Truncated,
    gaussian_taps,
    zero_padding,
)
from diffctl.pytree import axes, pytree_dataclass, static
from diffctl.solvers import (
    DDNM,
    DPS,
    ILVR,
    MCG,
    ConjugatePiGDM,
    NoiselessPiGDM,
    ScoreSDE,
    solve,
)
from tests.solvers.bed import grid
from tests.tolerances import EXACT64

KEY = jax.random.key(12)
SHAPE, STD, NOISE_STD = (8, 8, 1), 0.4, 0.01
NOISE_FREE = {
    "ddnm": lambda: DDNM(grid=grid()),
    "pigdm": lambda: NoiselessPiGDM(grid=grid()),
    "cpigdm": lambda: ConjugatePiGDM(grid=grid()),
    "mcg": lambda: MCG(guided=DPS(grid=grid())),
    "score_sde": lambda: ScoreSDE(grid=grid()),
    "ilvr": lambda: ILVR(grid=grid()),
}


@pytree_dataclass
class WhitePixels(DiffusionPrior):
    """Independent pixels N(0, STD^2)."""

    shape: tuple[int, ...] = static(default=SHAPE)

    def denoise(self, x, sigma):
        return STD**2 / (STD**2 + sigma**2) * x


def _blur():
    taps = gaussian_taps(7, 1.3)
    return SeparableBlur.create(SHAPE, taps, taps, zero_padding)


def _problem(operator):
    """Measured with the whole blur."""
    truth_key, noise_key = jax.random.split(KEY)
    truth = STD * jax.random.normal(truth_key, SHAPE)
    noise = NOISE_STD * jax.random.normal(noise_key, SHAPE)
    return Problem(
        y=_blur()(truth) + noise, operator=operator, noise=GaussianNoise(std=NOISE_STD)
    )


@pytest.mark.usefixtures("x64")
def test_small_singular_values_are_zero_and_the_rest_is_as_it_was():
    blur, truncated = _blur(), Truncated.create(_blur(), cutoff=3e-2)
    s = np.asarray(blur.singular_values)
    kept = np.where(s > 3e-2 * s.max(), s, 0)
    assert 0 < np.count_nonzero(kept) < s.size
    np.testing.assert_allclose(truncated.singular_values, kept, **EXACT64)
    x = jax.random.normal(KEY, SHAPE)
    by_hand = blur.u(jnp.asarray(kept) * blur.v_adjoint(x))
    np.testing.assert_allclose(truncated(x), by_hand, **EXACT64)
    assert np.linalg.norm(truncated(x) - blur(x)) > 1e-3
    # Nothing is lost of what is kept, and A^+ is bounded by the cut-off.
    projected = truncated.pinv(truncated(x))
    np.testing.assert_allclose(truncated(projected), truncated(x), **EXACT64)
    np.testing.assert_allclose(truncated.pinv(blur(x)), projected, **EXACT64)
    amplified = np.linalg.norm(truncated.pinv(x)) / np.linalg.norm(x)
    assert amplified < 1 / (3e-2 * s.max()) < np.linalg.norm(blur.pinv(x))
    whole = Truncated.create(blur, cutoff=0.0)
    np.testing.assert_array_equal(whole.singular_values, s)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NOISE_FREE)
def test_noise_stays_bounded_with_a_cutoff_and_explodes_without(name):
    problem = _problem(Truncated.create(_blur()))
    cutoffs = jnp.asarray([3e-2, 0.0])
    many = dataclasses.replace(
        problem, operator=dataclasses.replace(problem.operator, cutoff=cutoffs)
    )
    batched = axes(many, operator=axes(many.operator, cutoff=0))
    run = jax.vmap(solve, in_axes=(None, batched, None, None))
    bounded, exploded = run(KEY, many, WhitePixels(), NOISE_FREE[name]()).x
    assert np.max(np.abs(bounded)) < 8 * STD
    assert np.max(np.abs(exploded)) > 1e3 * STD


@pytest.mark.usefixtures("x64")
def test_the_cutoff_of_ddnm_is_that_of_the_operator():
    """Its A^+ is the same; only the misfit of the two problems differs."""
    whole, truncated = _problem(_blur()), _problem(Truncated.create(_blur()))
    levels = grid(5)
    found = solve(KEY, whole, WhitePixels(), DDNM(grid=levels, cutoff=3e-2)).x
    expected = solve(KEY, truncated, WhitePixels(), DDNM(grid=levels)).x
    np.testing.assert_allclose(found, expected, **EXACT64)
    assert DDNM.released_code().cutoff == 3e-2


def test_a_cutoff_is_a_fraction():
    with pytest.raises(ValueError, match="cutoff is"):
        Truncated.create(Identity(shape=SHAPE), cutoff=1.5)
