"""Recipes for discrete schedules against their definitions."""

from fractions import Fraction

import numpy as np
import pytest

from diffctl.diffusion.betas import RECIPES, SPACINGS, Betas, spaced_timesteps
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


def _by_fractions(spacing, total, count):
    """Return the documented positions, exactly, rounded half to even."""
    places = range(count)[::-1]
    if spacing == "leading":
        return [i * (total // count) for i in places]
    if spacing == "trailing":
        return [round(Fraction((i + 1) * total, count)) - 1 for i in places]
    return [round(Fraction(i * (total - 1), max(count - 1, 1))) for i in places]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_count_of_1000_is_exact(spacing):
    for count in range(1, 1001):
        found = spaced_timesteps(1000, count, spacing=spacing)
        assert found.tolist() == _by_fractions(spacing, 1000, count)
        assert found.shape == (count,) and np.all(np.diff(found) < 0)
        assert found[0] <= 999 and found[-1] >= 0


@pytest.mark.parametrize("total", [1, 2, 3, 50, 61, 128])
def test_every_count_and_offset_of_shorter_schedules(total):
    for count in range(1, total + 1):
        for spacing in SPACINGS:
            found = spaced_timesteps(total, count, spacing=spacing)
            assert found.tolist() == _by_fractions(spacing, total, count)
        leading = spaced_timesteps(total, count)
        for offset in range(total - leading[0]):
            found = spaced_timesteps(total, count, offset=offset)
            np.testing.assert_array_equal(found, leading + offset)
        with pytest.raises(ValueError, match="offset must be 0 to"):
            spaced_timesteps(total, count, offset=total - leading[0])


def test_counts_that_diffusers_spaces_well():
    """Indices of DDIMScheduler and DDPMScheduler in diffusers 0.42.1."""
    seven = spaced_timesteps(1000, 7, offset=1).tolist()
    assert seven == [853, 711, 569, 427, 285, 143, 1]
    seven = spaced_timesteps(1000, 7, spacing="trailing").tolist()
    assert seven == [999, 856, 713, 570, 428, 285, 142]
    seven = spaced_timesteps(1000, 7, spacing="linspace").tolist()
    assert seven == [999, 832, 666, 500, 333, 166, 0]
    # "trailing" and "linspace" leave the offset of a configuration unread.
    three = spaced_timesteps(1000, 3, spacing="trailing", offset=1)
    assert three.tolist() == [999, 666, 332]
    one = [spaced_timesteps(1000, 1, spacing=s).tolist() for s in SPACINGS]
    assert one == [[0], [999], [0]]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("total", "count", "message"),
    [
        (1000, 0, "num_steps must be at least 1; got 0"),
        (1000, -3, "num_steps must be at least 1; got -3"),
        (1000, 1001, "at most the 1000 trained levels; got 1001"),
        (0, 1, "num_timesteps must be at least 1; got 0"),
    ],
)
def test_impossible_counts_are_named(spacing, total, count, message):
    with pytest.raises(ValueError, match=message):
        spaced_timesteps(total, count, spacing=spacing)


def test_impossible_offsets_are_named():
    for count, offset in ((1000, 1), (500, 2), (10, 100), (10, -1)):
        with pytest.raises(ValueError, match=f"offset must be 0 to .*got {offset}"):
            spaced_timesteps(1000, count, offset=offset)
    assert spaced_timesteps(1000, 500, offset=1)[0] == 999
    with pytest.raises(TypeError, match="integer"):
        spaced_timesteps(1000, 2.5)
