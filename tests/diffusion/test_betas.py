"""Recipes for discrete schedules against their definitions."""

import numpy as np
import pytest

from diffctl.diffusion.betas import RECIPES, Betas, spaced_timesteps
from diffctl.diffusion.discrete import DDPM
from tests.tolerances import EXACT64


def test_linear_and_cosine_are_those_of_ddpm():
    for recipe in ("linear", "cosine"):
        found = Betas.of(recipe).schedule().integrated_rate
        expected = getattr(DDPM, recipe)().integrated_rate
        np.testing.assert_allclose(found, expected, **EXACT64)


def test_scaled_linear_and_sigmoid_by_their_ends():
    scaled = Betas.of("scaled_linear", num_timesteps=3, start=0.01, end=0.09).values()
    np.testing.assert_allclose(scaled, [0.01, 0.04, 0.09], **EXACT64)
    sigmoid = Betas.of("sigmoid", num_timesteps=3, start=0.1, end=0.3).values()
    np.testing.assert_allclose(sigmoid[1], 0.2, **EXACT64)
    np.testing.assert_allclose(sigmoid[2], 0.1 + 0.2 / (1 + np.exp(-6)), **EXACT64)


def test_iddpm_is_the_recursion_of_edm():
    """u_{j-1}^2 + 1 = (u_j^2 + 1) / max(a_{j-1} / a_j, 0.001), u_M = 0."""
    steps = 50
    a = np.sin(np.pi / 2 * np.arange(steps + 1) / steps / 1.008) ** 2
    levels = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        ratio = max(a[j - 1] / a[j], 0.001)
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / ratio - 1)
    schedule = Betas.of("iddpm", num_timesteps=steps).schedule()
    found = schedule.sigma(np.arange(steps))
    np.testing.assert_allclose(found, levels[-2::-1], **EXACT64)


def test_a_table_is_kept_as_it_is():
    betas = Betas.of("table", table=[0.1, 0.2])
    assert betas.num_timesteps == 2
    np.testing.assert_array_equal(betas.values(), [0.1, 0.2])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_a_file(recipe):
    fields = {"table": [0.1, 0.2]} if recipe == "table" else {}
    betas = Betas.of(recipe, **fields)
    assert Betas.of(**betas.to_json()) == betas
    assert hash(betas) == hash(Betas.of(**betas.to_json()))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no schedule called 'quadratic'; .*linear"):
        Betas.of("quadratic")
    with pytest.raises(ValueError, match="got 'even'"):
        spaced_timesteps(10, 5, spacing="even")


def test_spacings_by_hand():
    assert spaced_timesteps(10, 5).tolist() == [8, 6, 4, 2, 0]
    assert spaced_timesteps(10, 5, offset=1).tolist() == [9, 7, 5, 3, 1]
    trailing = spaced_timesteps(10, 5, spacing="trailing")
    assert trailing.tolist() == [9, 7, 5, 3, 1]
    linspace = spaced_timesteps(10, 4, spacing="linspace")
    assert linspace.tolist() == [9, 6, 3, 0]
