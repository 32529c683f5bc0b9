"""The noise levels and the prediction of openai/guided- and improved-diffusion."""

from typing import Any

from diffctl.diffusion.betas import Betas
from diffctl.priors.preconditioning import (
    DiscretePreconditioning,
    NoisePrediction,
    SamplePrediction,
)
from weights_convert.families.base import (
    Config,
    ConfigError,
    discrete_prior,
    flag,
    number_of_steps,
)
from weights_convert.families.settings import is_one_of, shown

# What the network predicts, as `model_mean_type` of DPS2022's configurations has it.
_PREDICTIONS: dict[str, type[DiscretePreconditioning]] = {
    "epsilon": NoisePrediction,
    "start_x": SamplePrediction,
}


def prior(config: Config, seen: int, out: int) -> dict[str, Any]:
    """Describe the prior that a network of guided diffusion is."""
    steps = steps_of(config)
    rule = _prediction(config)(
        betas=_betas(config, steps),
        label_scale=1000 / steps if flag(config, "rescale_timesteps") else 1.0,
    )
    return discrete_prior(rule, learned_variance=out == 2 * seen)


def steps_of(config: Config) -> int:
    """Return the number of noise levels, by either of its names."""
    name = "steps" if "diffusion_steps" not in config else "diffusion_steps"
    return number_of_steps(config, name)


def _betas(config: Config, steps: int) -> Betas:
    """Return the variances; those of `linear` grow as the steps get fewer."""
    name = config.get("noise_schedule", "linear")
    if not is_one_of(name, ("linear", "cosine")):
        raise ConfigError(
            f"noise_schedule = {shown(name)} cannot be converted; known are linear, "
            "cosine."
        )
    stretch = 1000 / steps
    if name == "linear" and stretch * 0.02 >= 1:
        raise ConfigError(
            f"diffusion_steps = {steps}: the linear schedule needs 21 steps or more, "
            "for its last variance is 20 / steps."
        )
    ends = {"start": stretch * 1e-4, "end": stretch * 2e-2}
    return Betas.of(name, num_timesteps=steps, **(ends if name == "linear" else {}))


def _prediction(config: Config) -> type[DiscretePreconditioning]:
    """Return what the network predicts, named in either way."""
    by_flag = "start_x" if flag(config, "predict_xstart") else "epsilon"
    name = config.get("model_mean_type") or by_flag
    is_flagged = config.get("predict_xstart") is not None
    if not is_one_of(name, _PREDICTIONS) or (name != by_flag and is_flagged):
        raise ConfigError(
            f"model_mean_type = {shown(name)} with predict_xstart = "
            f"{shown(config.get('predict_xstart', 'not given'))} cannot be converted; "
            f"known are {', '.join(_PREDICTIONS)}, which predict_xstart must not "
            "contradict."
        )
    return _PREDICTIONS[name]


def remarks(config: Config) -> tuple[str, ...]:
    """Return what was assumed although two projects differ in it."""
    if steps_of(config) == 1000 or config.get("rescale_timesteps") is not None:
        return ()
    return (
        "rescale_timesteps is not given and is taken for false, as in "
        "openai/guided-diffusion; scripts of openai/improved-diffusion have it true by "
        "default. Give it in the configuration.",
    )
