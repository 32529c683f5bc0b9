"""Scheduler configurations of diffusers against the arrays that the library made."""

import json

import numpy as np
import pytest

from tests.tolerances import EXACT32
from tests.weights_convert.fixture_networks import FOLDERS, ids
from weights_convert.families.base import ConfigError
from weights_convert.families.diffusers import schedule, timesteps
from weights_convert.families.schedulers import prior

WITH_SCHEDULER = [f for f in FOLDERS if (f / "scheduler_arrays.npz").is_file()]
_PLACES = ("scheduler_config.json", "scheduler/scheduler_config.json")


@pytest.mark.parametrize("folder", WITH_SCHEDULER, ids=ids(WITH_SCHEDULER))
def test_the_schedule_is_that_of_the_library(folder):
    (path,) = (folder / place for place in _PLACES if (folder / place).is_file())
    config = json.loads(path.read_text())
    arrays = np.load(folder / "scheduler_arrays.npz")
    betas = schedule(config)
    np.testing.assert_allclose(betas.values(), arrays["betas"], **EXACT32)
    # A float32 product of a thousand factors; measured 6e-6.
    cumulative = betas.schedule().alphas_cumprod
    np.testing.assert_allclose(cumulative, arrays["alphas_cumprod"], rtol=1e-4)
    for name in arrays.files:
        if name.startswith("timesteps_"):
            found = timesteps(config, int(name.removeprefix("timesteps_")))
            np.testing.assert_array_equal(found, arrays[name])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "infinite noise level"),
        ({"beta_schedule": "laplace"}, "'laplace' cannot be converted"),
    ],
)
def test_schedules_that_cannot_be_converted(config, message):
    with pytest.raises(ConfigError, match=message):
        schedule(config)


def test_a_schedule_that_ends_without_signal_is_refused():
    scheduler = {"_class_name": "DDPMScheduler", "beta_end": 0.999}
    with pytest.raises(ConfigError, match="ends without any signal"):
        prior(scheduler, learns_variance=False)


def test_explicit_betas_come_first():
    betas = schedule({"beta_schedule": "linear", "trained_betas": [0.1, 0.3]})
    np.testing.assert_array_equal(betas.values(), [0.1, 0.3])
