"""Schedules against the published golden values and against their own SDE."""

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
    ddim_timesteps,
    respaced,
    respaced_timesteps,
)
from tests.tolerances import EXACT32, EXACT64, FD64

SCHEDULES = {
    "vp": (VP(), np.linspace(0.01, 0.99, 7)),
    "ve": (VE(), np.linspace(0.01, 0.99, 7)),
    "edm": (EDM(), np.geomspace(0.01, 50, 7)),
    # Inside the unit intervals: the rate is piecewise constant between integers.
    "ddpm": (DDPM.linear(), np.array([0.5, 10.25, 99.5, 500.3, 998.5])),
}


@pytest.mark.parametrize(
    ("time", "alphas_cumprod", "sigma"),
    [
        (1.0, 4.318575e-5, 152.167),
        (0.4, 0.1955381, 2.02832),
        (1e-3, 0.9998901, 0.010486),
    ],
)
def test_vp_golden_values(time, alphas_cumprod, sigma):
    # The golden values are printed to six or seven digits.
    np.testing.assert_allclose(VP().scale(time) ** 2, alphas_cumprod, rtol=5e-7)
    np.testing.assert_allclose(VP().sigma(time), sigma, rtol=5e-5)


def test_ddpm_linear_golden_values():
    schedule = DDPM.linear()
    index = np.array([0, 100, 500, 950, 999])
    golden = [0.9999, 0.8951416, 7.779666e-2, 1.060418e-4, 4.035830e-5]
    np.testing.assert_allclose(schedule.alphas_cumprod[index], golden, rtol=5e-7)
    np.testing.assert_allclose(schedule.scale(index) ** 2, golden, rtol=5e-7)
    sigma = schedule.sigma(index[[0, 2, 3, 4]])
    np.testing.assert_allclose(sigma, [0.0100005, 3.44297, 97.1043, 157.407], rtol=3e-6)


def test_ddpm_cosine_against_the_definition():
    schedule = DDPM.cosine()
    target = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = target[1:] / target[0]
    # The last beta is clipped at 0.999, so its level is above the (zero) target.
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], expected[:-1], **EXACT64)
    last = schedule.alphas_cumprod[-1] / schedule.alphas_cumprod[-2]
    np.testing.assert_allclose(last, 1 - 0.999, **EXACT64)


def test_shorter_linear_schedule_stretches_its_betas():
    betas = np.linspace(4e-4, 8e-2, 250)
    expected = DDPM.from_alphas_cumprod(np.cumprod(1 - betas)).integrated_rate
    np.testing.assert_allclose(DDPM.linear(250).integrated_rate, expected, **EXACT64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_inverse_and_sde_coefficients(name):
    schedule, time = SCHEDULES[name]
    np.testing.assert_allclose(schedule.time(schedule.sigma(time)), time, **EXACT64)
    width = 1e-5 * np.maximum(time, 1e-2)
    after, before = time + width, time - width
    log_growth = np.log(schedule.scale(after) / schedule.scale(before)) / (2 * width)
    np.testing.assert_allclose(schedule.drift_rate(time), log_growth, **FD64)
    growth = (schedule.sigma(after) ** 2 - schedule.sigma(before) ** 2) / (2 * width)
    found = schedule.diffusion_squared(time) / schedule.scale(time) ** 2
    np.testing.assert_allclose(found, growth, **FD64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_traced_in_float32_equals_host_in_float64(name):
    schedule, time = SCHEDULES[name]

    @jax.jit
    def evaluate(schedule, time):
        sigma = schedule.sigma(time)
        return sigma, schedule.scale(time), schedule.diffusion_squared(time)

    found = evaluate(schedule, jnp.asarray(time))
    chex.assert_type(found, jnp.float32)
    expected = [
        schedule.sigma(time),
        schedule.scale(time),
        schedule.diffusion_squared(time),
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **EXACT32)


def test_float32_keeps_the_clean_end():
    # 1 - alphas_cumprod in float32 would be off by 3e-4 here.
    found = jax.jit(lambda schedule: schedule.sigma(jnp.asarray(0.0)))(DDPM.linear())
    np.testing.assert_allclose(found, np.sqrt(1e-4 / 0.9999), **EXACT32)


def test_rate_of_an_index_is_its_beta():
    schedule = DDPM.linear()
    index = schedule.time(schedule.sigma(np.arange(1000)))
    expected = -np.log1p(-np.linspace(1e-4, 2e-2, 1000))
    # b_i is of order 10 and is differenced: absolute error of a few ulp of b.
    found = schedule.diffusion_squared(index)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_respaced_timesteps_golden():
    assert respaced_timesteps(1000, 5).tolist() == [0, 250, 500, 749, 999]
    assert respaced_timesteps(1000, 10).tolist() == list(range(0, 1000, 111))
    twenty = [0, 53, 105, 158, 210, 263, 315, 368, 421, 473]
    twenty += [526, 578, 631, 684, 736, 789, 841, 894, 946, 999]
    assert respaced_timesteps(1000, 20).tolist() == twenty
    fifty = respaced_timesteps(1000, 50).tolist()
    assert fifty[:5] == [0, 20, 41, 61, 82] and fifty[-3:] == [958, 979, 999]
    assert respaced_timesteps(1000, 1000).tolist() == list(range(1000))


@pytest.mark.parametrize("total", [2, 3, 250, 1000, 4000])
def test_every_respaced_count_has_distinct_indices_and_both_ends(total):
    for count in range(2, min(total, 1000) + 1):
        found = respaced_timesteps(total, count)
        assert found.shape == (count,) and np.all(np.diff(found) > 0)
        assert found[0] == 0 and found[-1] == total - 1


def test_ddim_timesteps():
    assert ddim_timesteps(1000, 50).tolist() == list(range(0, 1000, 20))
    assert ddim_timesteps(1000, 3).tolist() == [0, 334, 668]
    with pytest.raises(ValueError, match="no integer stride"):
        ddim_timesteps(1000, 600)


def test_indices_have_no_levels_beyond_the_last():
    """Not those of the last index: scale and sigma would belong to another point."""
    schedule, top = DDPM.linear(), float(DDPM.linear().sigma(999))
    for call in (schedule.sigma, schedule.scale, schedule.diffusion_squared):
        for time in (1000.0, -1.5, [0.0, 1e4], jnp.asarray(1000.0), np.nan):
            with pytest.raises(ValueError, match="outside of the schedule DDPM"):
                call(time)
    with pytest.raises(ValueError, match=r"\[158.0\] are outside .* 0 to 157.407"):
        schedule.time(158.0)
    assert schedule.time(0.0) == -1
    # Rounded to float32, or by the way there and back.
    assert schedule.time(np.nextafter(np.float32(top), np.float32(1e9))) == 999
    assert schedule.sigma(999 + 1e-12) == top


def test_respaced_chain_recomputes_its_betas():
    schedule = DDPM.linear()
    timesteps = respaced_timesteps(1000, 7)
    chain = respaced(schedule, timesteps)
    table = np.append(1.0, schedule.alphas_cumprod[timesteps])
    again = DDPM.from_betas(1 - table[1:] / table[:-1])
    np.testing.assert_allclose(chain.integrated_rate, again.integrated_rate, **EXACT64)
    index = np.arange(7)
    np.testing.assert_array_equal(chain.sigma(index), schedule.sigma(timesteps))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDPM.from_betas([0.1, 1.0]), "entries in"),
        (lambda: DDPM.from_betas([[0.1]]), "entries in"),
        (lambda: DDPM.from_alphas_cumprod([0.5, 0.6]), "decrease"),
        (lambda: DDPM.linear(10), "at least 21"),
        (lambda: DDPM.cosine(0), "at least 1"),
        (lambda: respaced_timesteps(1000, 1), "at least 2"),
        (lambda: respaced_timesteps(10, 11), "at most"),
        (lambda: respaced(DDPM.linear(), [3, 3]), "increase"),
        (lambda: respaced(DDPM.linear(), [0, 1000]), "0..999"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
