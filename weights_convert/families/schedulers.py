"""Schedulers of huggingface/diffusers: the preconditioning a network was trained with.

Three kinds can be converted: networks of N discrete levels, of EDM, and consistency
models. A file may carry settings of other schedulers that its own does not read.
Without `_class_name` a file is taken for that of a DDPMScheduler.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffctl.diffusion.betas import Betas, spaced_timesteps
from diffctl.priors.preconditioning import (
    ConsistencyPreconditioning,
    DiscretePreconditioning,
    EDMPreconditioning,
    NoisePrediction,
    SamplePrediction,
    VelocityPrediction,
)
from weights_convert.families.base import (
    Config,
    ConfigError,
    continuous_prior,
    discrete_prior,
    flag,
    listed,
    number,
    number_of_steps,
    positive,
    variance,
)
from weights_convert.families.scheduler_classes import (
    CONSISTENCY,
    CONSISTENCY_SETTINGS,
    DISCRETE,
    DISCRETE_SETTINGS,
    EDM,
    EDM_SETTINGS,
    REFUSED,
)
from weights_convert.families.settings import Settings, is_one_of, shown

_PREDICTIONS: dict[str, type[DiscretePreconditioning]] = {
    "epsilon": NoisePrediction,
    "sample": SamplePrediction,
    "original_sample": SamplePrediction,  # another word of EulerDiscreteScheduler
    "v_prediction": VelocityPrediction,
}
_MAX_NAME = 100
_RECIPES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
_VARIANCES = (
    *(None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    *("learned", "learned_range"),
)


def declared(scheduler: Any) -> Settings:
    """Return the settings that a scheduler of this class has.

    Raises:
        ConfigError: it is no configuration, or its class cannot be converted.
    """
    return _kind(scheduler)[0]


def prior(scheduler: Config, *, learns_variance: bool) -> dict[str, Any]:
    """Describe the prior of a network that was trained with a scheduler.

    Args:
        scheduler: its configuration.
        learns_variance: whether the network returns twice the channels.

    Raises:
        ConfigError: it cannot be converted.
    """
    settings, describe = _kind(scheduler)
    settings.check(scheduler)
    return describe(scheduler, learns_variance)


def schedule(scheduler: Config) -> Betas:
    """Return the variances of a scheduler of discrete levels.

    Raises:
        ConfigError: the schedule cannot be converted.
    """
    DISCRETE_SETTINGS.check(scheduler)
    if scheduler.get("trained_betas") is not None:
        return Betas.of("table", table=listed(scheduler, "trained_betas", number))
    usual: dict[str, Any] = {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 2e-2,
    }
    usual |= DISCRETE[_class_of(scheduler)]
    name = scheduler.get("beta_schedule", usual["beta_schedule"])
    if not is_one_of(name, _RECIPES):
        raise ConfigError(
            f"beta_schedule = {shown(name)} cannot be converted; known are "
            f"{', '.join(_RECIPES)}. Its values can be given as trained_betas."
        )
    return Betas.of(
        _RECIPES[name],
        num_timesteps=number_of_steps(scheduler, "num_train_timesteps"),
        start=variance(scheduler, "beta_start", usual["beta_start"]),
        end=variance(scheduler, "beta_end", usual["beta_end"]),
    )


def timesteps(scheduler: Config, num_steps: int) -> np.ndarray:
    """Return the training indices that its sampler visits, noisiest first."""
    return spaced_timesteps(
        number_of_steps(scheduler, "num_train_timesteps"),
        num_steps,
        spacing=scheduler.get("timestep_spacing", "leading"),
        offset=scheduler.get("steps_offset", 0),
    )


_Describe = Callable[[Config, bool], dict[str, Any]]


def _kind(scheduler: Any) -> tuple[Settings, _Describe]:
    """Return the declaration and the description of a scheduler's kind."""
    if not isinstance(scheduler, Mapping):
        raise ConfigError(
            f"scheduler = {shown(scheduler)}; it must be the object of a "
            "scheduler_config.json."
        )
    name = _class_of(scheduler)
    for classes, settings, describe in _KINDS:
        if name in classes:
            return settings, describe
    why = REFUSED.get(name, "it is not known")
    known = ", ".join(c for classes, _, _ in _KINDS for c in classes)
    raise ConfigError(
        f"the scheduler {name} cannot be converted: {why}. Schedulers that can: "
        f"{known}."
    )


def _class_of(scheduler: Config) -> str:
    name = scheduler.get("_class_name") or "DDPMScheduler"
    return name if isinstance(name, str) and len(name) < _MAX_NAME else shown(name)


def _discrete(scheduler: Config, learns_variance: bool) -> dict[str, Any]:
    prediction = scheduler.get("prediction_type")
    if prediction is None:  # named otherwise until late 2022
        is_noise = flag(scheduler, "predict_epsilon", default=True)
        prediction = "epsilon" if is_noise else "sample"
    if not is_one_of(prediction, _PREDICTIONS):
        raise ConfigError(
            f"prediction_type = {shown(prediction)} cannot be converted; known are "
            f"{', '.join(_PREDICTIONS)}."
        )
    variance = scheduler.get("variance_type")
    if variance not in _VARIANCES:
        raise ConfigError(
            f"variance_type = {shown(variance)} cannot be converted; known are "
            f"{', '.join(map(str, _VARIANCES))}."
        )
    if str(variance).startswith("learned") and not learns_variance:
        raise ConfigError(
            f"variance_type = {shown(variance)}, but the network returns as many "
            "channels "
            "as it takes; correct the scheduler's configuration."
        )
    # A variance that is learned as itself, not as a place in its range, is left out.
    return discrete_prior(
        _PREDICTIONS[prediction](betas=schedule(scheduler)),
        learned_variance=variance == "learned_range",
    )


def _edm(scheduler: Config, learns_variance: bool) -> dict[str, Any]:
    rule = EDMPreconditioning(sigma_data=positive(scheduler, "sigma_data", 0.5))
    return continuous_prior(rule, *_range(scheduler))


def _consistency(scheduler: Config, learns_variance: bool) -> dict[str, Any]:
    least, most = _range(scheduler)
    rule = ConsistencyPreconditioning(
        sigma_data=positive(scheduler, "sigma_data", 0.5),
        sigma_min=least,
        noise_gain=250.0,
    )
    return continuous_prior(rule, least, most)


def _range(scheduler: Config) -> tuple[float, float]:
    least = positive(scheduler, "sigma_min", 0.002)
    return least, positive(scheduler, "sigma_max", 80.0)


_KINDS: tuple[tuple[tuple[str, ...], Settings, _Describe], ...] = (
    (tuple(DISCRETE), DISCRETE_SETTINGS, _discrete),
    (EDM, EDM_SETTINGS, _edm),
    (CONSISTENCY, CONSISTENCY_SETTINGS, _consistency),
)
