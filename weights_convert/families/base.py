"""What a family of checkpoints is, and the helpers that all families share."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffctl.nets.architecture import Architecture
from diffctl.priors.network import NetworkPrior
from diffctl.priors.preconditioning import (
    DiscretePreconditioning,
    Preconditioning,
    to_json,
)
from weights_convert.families.settings import Config as Config
from weights_convert.families.settings import ConfigError as ConfigError
from weights_convert.families.settings import Settings, plain, shown
from weights_convert.mapping import Rule, Shapes

_MAX_STEPS = 100_000
MOST = (1 << 31) - 1  # of whole numbers: no size is more
PRIOR, LATENT_PRIOR = NetworkPrior.OF_IMAGES, NetworkPrior.OF_LATENTS
CLASSIFIER, AUTOENCODER = "classifier", "autoencoder"


class Plan(NamedTuple):
    """Everything that a conversion needs to know besides the values."""

    architecture: Architecture
    rules: tuple[Rule, ...]
    shape: tuple[int, ...]  # of one image, (H, W, C)
    kind: str = PRIOR
    description: Mapping[str, Any] = {}  # further entries of model.json
    constants: Mapping[str, np.ndarray] = {}  # buffers the file must hold as they are
    ignored: tuple[str, ...] = ()  # prefixes of tensors of other networks
    order: str | None = None  # "legacy" or "new", of the file's attention channels
    remarks: tuple[str, ...] = ()  # what was assumed, for the user


def _no_buffers(architecture: Architecture) -> dict[str, np.ndarray]:
    return {}


class Family(NamedTuple):
    """A kind of checkpoint: how to recognise it, and how to read and write it.

    `settings` brings the forms in which configurations come into one flat dictionary,
    which `declared` is held against.
    `table` and `buffers` are the layout of files for an architecture (and an order of
    the attention channels); they serve the way back.
    """

    name: str
    title: str
    detect: Callable[[Shapes], bool]
    settings: Callable[[Config], dict[str, Any]]
    declared: Settings
    plan: Callable[[Shapes, Config], Plan]
    architectures: tuple[str, ...]
    table: Callable[[Architecture, str | None], tuple[Rule, ...]]
    buffers: Callable[[Architecture], dict[str, np.ndarray]] = _no_buffers


def required(config: Config, name: str, why: str) -> Any:
    """Return a setting that the shapes do not tell.

    Raises:
        ConfigError: it is missing.
    """
    if config.get(name) is None:
        raise ConfigError(
            f"the setting {name!r} is needed: {why}, and the shapes of the tensors do "
            "not tell. Give it in a JSON file with --config, or name a built-in "
            "configuration."
        )
    return config[name]


def flag(config: Config, name: str, *, default: bool = False) -> bool:
    """Return a setting that is true or false; null is as good as not given.

    Raises:
        ConfigError: it is anything else, such as the text "False".
    """
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise unfit(name, value, "true or false, not a text or a number")
    return value


def number(config: Config, name: str, default: float | None = None) -> float:
    """Return a setting that is a finite number; null is as good as not given.

    Raises:
        ConfigError: it is none.
    """
    value = default if config.get(name) is None else config[name]
    if type(value) is bool or not isinstance(value, int | float) or math.isnan(value):
        raise unfit(name, value, "a number")
    if abs(value) == math.inf:
        raise unfit(name, value, "a finite number")
    return value


def positive(config: Config, name: str, default: float | None = None) -> float:
    """Return a setting that is a positive number; null is as good as not given.

    Raises:
        ConfigError: it is none, or infinite.
    """
    value = number(config, name, default)
    if not 0 < value < math.inf:
        raise unfit(name, value, "a positive number")
    return value


def variance(config: Config, name: str, default: float) -> float:
    """Return a setting that is the variance of a step; null is as good as not given.

    Raises:
        ConfigError: it is none.
    """
    value = number(config, name, default)
    if not 0 < value < 1:
        raise unfit(name, value, "a variance between 0 and 1")
    return value


def whole(config: Config, name: str, default: int | None = None) -> int:
    """Return a setting that is a whole positive number; null is as not given.

    Raises:
        ConfigError: it is none, or more than any size is.
    """
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not 1 <= value <= MOST:
        raise unfit(name, value, f"a whole positive number up to {MOST}")
    return value


def listed(config: Config, name: str, entry: Callable[[Config, str], Any]) -> list[Any]:
    """Return a setting that is a list whose entries `entry` accepts, one or more.

    Raises:
        ConfigError: it is no list, or an entry is not accepted.
    """
    values = config.get(name)
    if not isinstance(values, list | tuple) or not values:
        raise unfit(name, values, "a list")
    return [entry({f"{name}[{i}]": v}, f"{name}[{i}]") for i, v in enumerate(values)]


def heads_of_width(config: Config, name: str, width: int) -> int:
    """Return how many attention heads of a width that is a setting make a layer.

    Raises:
        ConfigError: they do not fill the layer.
    """
    return _divided(name, width, whole(config, name))


def number_of_heads(config: Config, name: str, width: int) -> int:
    """Return a setting that is the number of attention heads of a layer.

    Raises:
        ConfigError: the layer cannot be cut into so many.
    """
    heads = whole(config, name)
    _divided(name, width, heads)
    return heads


def _divided(name: str, width: int, divisor: int) -> int:
    if width % divisor:
        raise ConfigError(
            f"{name} = {divisor} does not divide the {width} channels of an attention "
            "layer."
        )
    return width // divisor


def unfit(name: str, value: Any, expectation: str) -> ConfigError:
    """Return the error of a setting that has no fitting value."""
    return ConfigError(f"{name} = {shown(value)}; it must be {expectation}.")


def number_of_steps(config: Config, name: str) -> int:
    """Return how many noise levels a network was trained on, 1000 by default.

    Raises:
        ConfigError: it is no whole number, or one that would take minutes to tabulate.
    """
    steps = config.get(name, 1000)
    if type(steps) is not int or not 1 <= steps <= _MAX_STEPS:
        raise ConfigError(
            f"{name} = {shown(steps)}; it must be a whole number from 1 to "
            f"{_MAX_STEPS}."
        )
    return steps


def check_size(shapes: Shapes, num_levels: int, blocks: Any) -> None:
    """Compare the size of a network in the configuration with the number of tensors.

    It would take minutes to build an absurdly large one, only to find that out.

    Raises:
        ConfigError: the number of blocks is none, or every block has several tensors
            and the file has fewer.
    """
    if type(blocks) is not int or blocks < 1 or num_levels * blocks > len(shapes):
        raise ConfigError(
            f"the configuration has {num_levels} levels of {shown(blocks)} blocks; "
            "the file "
            f"has {len(shapes)} tensors. Correct layers_per_block."
        )


def check_agreement(config: Config, inferred: Config) -> None:
    """Compare settings with what the shapes of the tensors say.

    Raises:
        ConfigError: a setting contradicts the file.
    """
    for name, found in inferred.items():
        given = config.get(name)
        if given is None:
            continue
        if plain(given) != plain(found):
            raise ConfigError(
                f"the configuration says {name} = {shown(given)}; the tensors of the "
                "file "
                f"say {found!r}. Correct the configuration or leave {name} out."
            )


def check_channels(image: int, out: int) -> None:
    """Check that a network returns what a denoiser of its input does.

    Raises:
        ConfigError: it returns another number of channels than it takes, or twice it.
    """
    if out not in (image, 2 * image):
        raise ConfigError(
            f"the network takes {image} channels and returns {out}; a denoiser of "
            "images returns as many as it takes, or twice as many with a learned "
            "variance. Networks that are also given another image, as for "
            "super-resolution, cannot be converted."
        )


def discrete_prior(
    rule: DiscretePreconditioning, *, learned_variance: bool
) -> dict[str, Any]:
    """Describe a prior trained on discrete levels, for model.json.

    Raises:
        ConfigError: the schedule is none.
    """
    try:
        with np.errstate(over="ignore"):  # infinite levels are refused below
            levels = rule.levels()
    except ValueError as error:
        raise ConfigError(
            f"the noise schedule of the configuration cannot be used: {error}"
        ) from error
    if not levels[-1] < math.inf:
        raise ConfigError(
            "the noise schedule of the configuration ends without any signal: its last "
            "noise level is infinite, from which nothing can be denoised. Networks "
            "trained so (zero terminal SNR) cannot be converted."
        )
    return {
        "preconditioning": to_json(rule),
        "variance": "learned" if learned_variance else "fixed",
        "sigma_min": float(levels[0]),
        "sigma_max": float(levels[-1]),
    }


def continuous_prior(
    rule: Preconditioning, sigma_min: float, sigma_max: float
) -> dict[str, Any]:
    """Describe a prior trained on a range of noise levels, for model.json.

    Raises:
        ConfigError: the range is empty.
    """
    if not sigma_min < sigma_max:
        raise ConfigError(
            f"sigma_min = {sigma_min!r} and sigma_max = {sigma_max!r}; the first must "
            "be smaller than the second."
        )
    return {
        "preconditioning": to_json(rule),
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
    }
