"""The small classifier of digits: two convolutions and two linear layers.

The shapes tell everything but the padding and the size of the image.
"""

from typing import Any

from diffctl.nets.architecture import Architecture
from weights_convert.families.base import (
    CLASSIFIER,
    MOST,
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    required,
    whole,
)
from weights_convert.families.looked import axes
from weights_convert.families.settings import (
    NAMING,
    Only,
    Settings,
    flattened,
    names,
    shown,
)
from weights_convert.mapping import Layer, Rule, Shapes, rules

_LAYERS = [
    Layer("conv1", "conv1", "conv"),
    Layer("conv2", "conv2", "conv"),
    Layer("fc1", "linear1", "linear"),
    Layer("fc2", "linear2", "linear"),
]

_STEPS = (
    *("conv1", "relu", "max_pool 2", "conv2", "relu", "max_pool 2"),
    *("flatten (channel, row, column)", "fc1", "relu", "fc2"),
)
_SETTINGS = Settings(
    owner="classifier of digits",
    read=names(
        "in_channels image_size conv_channels kernel_size padding hidden num_classes"
    ),
    only={"layers": Only((_STEPS, None), "the network has these steps in this order")},
    harmless={NAMING: names("project class_name")},
)


def table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules."""
    return rules(_LAYERS)


def settings(config: Config) -> dict[str, Any]:
    """Return the settings, which may be under `arguments`."""
    return flattened(config, ("arguments",))


def plan(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a digit classifier."""
    first, image, kernel = axes(shapes, "conv1.weight", 3)
    widths = [image, first, shapes["conv2.weight"][0]]
    widths += [shapes["fc1.weight"][0], shapes["fc2.weight"][0]]
    says = {
        "in_channels": image,
        "conv_channels": widths[1:3],
        "kernel_size": kernel,
        "hidden": widths[3],
        "num_classes": widths[4],
    }
    check_agreement(config, says)
    required(config, "image_size", "it is the height and width of the images")
    size = whole(config, "image_size")
    padding = required(config, "padding", "it is the convolutions' padding")
    if type(padding) is not int or not 0 <= padding <= MOST:
        raise ConfigError(
            f"padding = {shown(padding)}; it must be a whole number from 0 to {MOST}."
        )
    return Plan(
        architecture=Architecture.of(
            "digit_classifier",
            size=size,
            widths=widths,
            kernel=kernel,
            padding=padding,
        ),
        rules=rules(_LAYERS),
        shape=(size, size, image),
        kind=CLASSIFIER,
    )


DIGITS = Family(
    name="digits",
    title="small classifier of digits",
    detect=lambda s: {n.split(".")[0] for n in s} == {"conv1", "conv2", "fc1", "fc2"},
    settings=settings,
    declared=_SETTINGS,
    plan=plan,
    architectures=("digit_classifier",),
    table=table,
)
