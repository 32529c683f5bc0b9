"""Grids: published entries, exact discrete levels, and clear errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import (
    DDPM,
    EDM,
    VE,
    VP,
    NoiseGrid,
    Schedule,
    ddpm,
    geometric,
    karras,
    respaced_timesteps,
    uniform,
    vp_uniform,
)
from tests.tolerances import EXACT32, EXACT64


@pytest.mark.usefixtures("x64")
def test_karras_entries():
    grid = karras(18)
    assert grid.num_steps == 18 and grid.sigma[-1] == 0
    np.testing.assert_allclose(grid.sigma[:3], [80, 57.586, 40.786], atol=5e-4)
    # The published digits: 0.00753 and 0.002.
    np.testing.assert_allclose(grid.sigma[-3:-1], [0.00753, 0.002], rtol=1e-3)
    np.testing.assert_array_equal(grid.scale, np.ones(19))
    np.testing.assert_array_equal(grid.time, grid.sigma)
    np.testing.assert_array_equal(karras(1).sigma, [80.0, 0.0])


@pytest.mark.usefixtures("x64")
def test_ddpm_levels_are_exact():
    schedule = DDPM.linear()
    grid = ddpm(20)
    timesteps = respaced_timesteps(1000, 20)[::-1]
    np.testing.assert_array_equal(grid.time, np.append(timesteps, -1))
    cumprod = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[timesteps]
    expected = np.append(np.sqrt((1 - cumprod) / cumprod), 0)
    np.testing.assert_allclose(grid.sigma, expected, **EXACT64)
    np.testing.assert_allclose(grid.scale, np.append(np.sqrt(cumprod), 1), **EXACT64)
    # The released code of DOC skips the noisiest level: any subset can be had.
    shorter = NoiseGrid.from_times(timesteps[1:], schedule)
    chex.assert_trees_all_equal(shorter.sigma, grid.sigma[1:])


@pytest.mark.usefixtures("x64")
def test_continuous_grids():
    grid = vp_uniform(11)
    np.testing.assert_allclose(grid.time[:-1], np.linspace(1, 1e-3, 11), **EXACT64)
    np.testing.assert_allclose(grid.sigma[0], 152.167, rtol=5e-6)
    np.testing.assert_allclose(grid.scale**2 * (1 + grid.sigma**2), 1.0, **EXACT64)
    logs = np.log(geometric(9, 0.01, 10.0).sigma[:-1])
    np.testing.assert_allclose(np.diff(logs), np.log(1e-3) / 8, **EXACT64)
    exploding = uniform(9, VE(sigma_min=0.01, sigma_max=10.0), 1.0, 0.0)
    np.testing.assert_allclose(np.log(exploding.sigma[:-1]), logs, **EXACT64)
    assert bool(jnp.all(jnp.isfinite(exploding.time)))


@pytest.mark.usefixtures("x64")
def test_levels_of_one_grid_on_the_schedule_of_another():
    grid = NoiseGrid.from_sigmas(karras(6).sigma[:-1], VP())
    np.testing.assert_allclose(VP().sigma(grid.time), grid.sigma, **EXACT64)
    np.testing.assert_allclose(grid.scale, 1 / np.sqrt(1 + grid.sigma**2), **EXACT64)


def test_default_precision_is_a_rounding_of_float64():
    grid = ddpm(50)
    chex.assert_type([grid.sigma, grid.scale, grid.time], jnp.float32)
    with jax.enable_x64(True):
        exact = ddpm(50)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), exact)
    chex.assert_trees_all_equal(grid, expected)


def test_pairs_are_scan_inputs():
    grid = karras(4)
    now, after = grid.pairs()
    chex.assert_tree_shape_prefix((now, after), (4,))

    def body(carry, levels):
        return carry, levels[0].sigma - levels[1].sigma

    _, widths = jax.jit(lambda g: jax.lax.scan(body, 0, g.pairs()))(grid)
    chex.assert_trees_all_close(jnp.sum(widths), grid.sigma[0], **EXACT32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: karras(0), ValueError, "num_steps must be at least 1"),
        (lambda: karras(5, sigma_min=0.0), ValueError, "0 < sigma_min"),
        (lambda: karras(5, sigma_min=3, sigma_max=2), ValueError, "sigma_min=3"),
        (lambda: karras(5, rho=0.0), ValueError, "rho"),
        (lambda: karras(2.5), TypeError, "integer"),
        (lambda: geometric(-1), ValueError, "num_steps"),
        (lambda: vp_uniform(5, time_min=0.0), ValueError, "positive"),
        (lambda: vp_uniform(5, time_max=1e-4), ValueError, "decreasing"),
        (lambda: ddpm(1), ValueError, "at least 2"),
        (lambda: ddpm(1001), ValueError, "1000 trained levels"),
        (lambda: ddpm(10, VP()), TypeError, "DDPM schedule; got VP"),
        (lambda: NoiseGrid.from_sigmas([1.0, np.nan]), ValueError, "finite"),
        (lambda: NoiseGrid.from_sigmas([1.0, 0.0]), ValueError, "positive"),
        (lambda: uniform(5, DDPM.linear(), 1000, 0), ValueError, r"times \[1000.0\]"),
        (lambda: uniform(5, DDPM.linear(), 9, -2), ValueError, "DDPM.* -1 to 999"),
        (lambda: vp_uniform(3, time_max=1.5), ValueError, r"times \[1.5\].* VP"),
        (lambda: uniform(3, VE(), 0.5, -0.5), ValueError, r"times \[-0.5\].* VE"),
        (lambda: NoiseGrid.from_times([np.nan], VP()), ValueError, "nan"),
    ],
)
def test_bad_values_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("schedule", "sigmas", "message"),
    [
        (DDPM.linear(), [200.0, 1.0], r"\[200.0\] are outside of the schedule DDPM"),
        (DDPM.linear(), [5e3, 4e3, 3e3, 2e3, 1.0], r"\[5000.0, .*\] and 1 more"),
        (DDPM.linear(50), [1e6], "DDPM, which has noise levels from 0 to"),
        (VP(), [153.0, 1.0], r"\[153.0\] .* VP, .* from 0 to 152.167"),
        (VE(), [400.0, 1.0], "VE, .* from 0.01 to 378"),
        (VE(), [1.0, 0.002], r"\[0.002\] .* VE"),
    ],
)
def test_levels_outside_of_the_schedule_are_named(schedule, sigmas, message):
    with pytest.raises(ValueError, match=message):
        NoiseGrid.from_sigmas(sigmas, schedule)


@pytest.mark.parametrize("schedule", [DDPM.linear(), VP(), VE()], ids=str)
def test_ends_of_a_schedule_survive_rounding(schedule):
    high = schedule.time_range[1]
    top = float(schedule.sigma(high))
    for first in (top, float(np.float32(top)), top * (1 + 2e-7), top * (1 - 2e-7)):
        grid = NoiseGrid.from_sigmas([first, 1.0], schedule)
        np.testing.assert_allclose(grid.time[0], high, **EXACT32)
        np.testing.assert_allclose(grid.scale[0], schedule.scale(high), **EXACT32)
    again = NoiseGrid.from_times(
        schedule.time(schedule.sigma(np.array([high]))), schedule
    )
    np.testing.assert_allclose(again.sigma[0], top, **EXACT32)
    # A level between the clean one and the first that was trained.
    if isinstance(schedule, DDPM):
        assert NoiseGrid.from_times([999, -0.5], schedule).sigma[1] < 0.01
        tiny = NoiseGrid.from_sigmas([1.0, 1e-9], schedule)
        np.testing.assert_allclose(tiny.scale[1], 1.0, **EXACT32)


def test_a_schedule_of_ones_own_may_have_any_times():
    class Log(EDM):
        time_range = Schedule.time_range

        def sigma(self, time):
            return np.exp(time)

        def time(self, sigma):
            return np.log(sigma)

    grid = NoiseGrid.from_sigmas([1e4, 1.0, 1e-4], Log())
    np.testing.assert_allclose(grid.time[:3], np.log([1e4, 1, 1e-4]), **EXACT32)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1e39, 1.0], r"float32, where level 0 of the grid, 1e\+39, becomes inf"),
        ([1.0, 1e-40], "level 1 of the grid, 1e-40, becomes 0.0"),
        ([1.0, 1e-50], "becomes 0.0"),
        ([2.0, 1.0 + 1e-9, 1.0], "level 2 .* 1.0, becomes 1.0, as the one before, 1.0"),
        ([1e40, 1e39], "level 0"),
    ],
)
def test_levels_that_float32_cannot_hold_are_named(sigmas, message):
    with pytest.raises(ValueError, match=message):
        NoiseGrid.from_sigmas(sigmas)
    with jax.enable_x64(True):
        grid = NoiseGrid.from_sigmas(sigmas)
        np.testing.assert_array_equal(grid.sigma[:-1], sigmas)


def test_crowded_grids_are_refused_however_they_are_built():
    for build in (
        lambda: karras(10_000, 1.0, 1.0 + 1e-4),
        lambda: geometric(10_000, 1.0, 1.0 + 1e-4),
        lambda: uniform(10_000, DDPM.linear(), 500.0, 499.9),
        lambda: geometric(3, 1e-44, 1.0),
    ):
        with pytest.raises(ValueError, match="in float32"):
            build()
