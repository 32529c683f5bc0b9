"""What a family of checkpoints is, and the helpers that all families share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffctl.diffusion.betas import Betas
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import DiscretePreconditioning, to_json
from weights_convert.mapping import Rule, Shapes

Config = Mapping[str, Any]

_MAX_STEPS = 100_000
PRIOR, CLASSIFIER, AUTOENCODER = "diffusion prior", "classifier", "autoencoder"


class ConfigError(ValueError):
    """A setting is missing, unknown or contradicts the tensors."""


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


def _no_buffers(architecture: Architecture) -> dict[str, np.ndarray]:
    return {}


class Family(NamedTuple):
    """A kind of checkpoint: how to recognise it, and how to read and write it.

    `settings` brings the forms in which configurations come into one flat dictionary.
    `table` and `buffers` are the layout of files for an architecture (and an order of
    the attention channels); they serve the way back.
    """

    name: str
    title: str
    detect: Callable[[Shapes], bool]
    settings: Callable[[Config], dict[str, Any]]
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


def number_of_steps(config: Config, name: str) -> int:
    """Return how many noise levels a network was trained on, 1000 by default.

    Raises:
        ConfigError: it is no whole number, or one that would take minutes to tabulate.
    """
    steps = config.get(name, 1000)
    if type(steps) is not int or not 1 <= steps <= _MAX_STEPS:
        raise ConfigError(
            f"{name} = {steps!r}; it must be a whole number from 1 to {_MAX_STEPS}."
        )
    return steps


def check_size(shapes: Shapes, num_levels: int, blocks: Any) -> None:
    """Compare the size of a network in the configuration with the number of tensors.

    It would take minutes to build an absurdly large one, only to find that out.

    Raises:
        ConfigError: every block has several tensors, and the file has fewer.
    """
    if type(blocks) is not int or num_levels * blocks > len(shapes):
        raise ConfigError(
            f"the configuration has {num_levels} levels of {blocks!r} blocks; the file "
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
        if _plain(given) != _plain(found):
            raise ConfigError(
                f"the configuration says {name} = {given!r}; the tensors of the file "
                f"say {found!r}. Correct the configuration or leave {name} out."
            )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def discrete_prior(
    rule: Callable[..., DiscretePreconditioning],
    betas: Betas,
    *,
    learned_variance: bool,
) -> dict[str, Any]:
    """Describe a prior trained on discrete levels, for model.json."""
    preconditioning = rule(betas=betas)
    levels = preconditioning.levels()
    return {
        "preconditioning": to_json(preconditioning),
        "variance": "learned" if learned_variance else "fixed",
        "sigma_min": float(levels[0]),
        "sigma_max": float(levels[-1]),
    }


def count(shapes: Shapes, template: str) -> int:
    """Count i = 0, 1, ... for which a tensor name starts with `template.format(i)`."""
    before, after = template.split("{}")
    rests = (n.removeprefix(before) for n in shapes if n.startswith(before))
    found = {rest.partition(after)[0] for rest in rests if after in rest}
    number = 0
    while str(number) in found:
        number += 1
    return number
