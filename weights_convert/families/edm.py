"""Networks of NVlabs/edm: DDPM++, NCSN++ and ADM, under any of its preconditionings.

The shapes tell everything but the preconditioning.
"""

from typing import Any

import numpy as np

from diffctl.diffusion.betas import Betas
from diffctl.diffusion.schedules import VP
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import (
    EDMPreconditioning,
    NearestNoisePrediction,
    VEPreconditioning,
    VPPreconditioning,
)
from weights_convert.families.base import (
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    check_channels,
    continuous_prior,
    discrete_prior,
    number,
    number_of_steps,
    positive,
    required,
    whole,
)
from weights_convert.families.edm_shapes import (
    FILTER,
    arguments_of,
    filter_of,
    size_of,
    song_arguments_of,
    taps_of,
)
from weights_convert.families.looked import below
from weights_convert.families.settings import (
    COMPUTING,
    NAMING,
    RECORDED,
    SHAPES,
    TRAINING,
    Only,
    Settings,
    flattened,
    names,
    shown,
)
from weights_convert.mapping import (
    Layer,
    Rule,
    Shapes,
    nest,
    prefixed,
    rules,
)

_STAGE = [
    Layer("norm0", "block.norm1", "norm"),
    Layer("conv0", "block.conv1", "conv"),
    Layer("affine", "block.modulation", "linear"),
    Layer("norm1", "block.norm2", "norm"),
    Layer("conv1", "block.conv2", "conv"),
    Layer("skip", "block.skip", "conv"),
    Layer("norm2", "attention.norm", "norm"),
    Layer("qkv", "attention.qkv", "point2", "head_width_qkv"),
    Layer("proj", "attention.out", "point2"),
]
_SHARED = [
    Layer("map_layer0", "linear1", "linear"),
    Layer("map_layer1", "linear2", "linear"),
    Layer("map_augment", "augment", "matrix"),
    *nest("enc.{name}", "encoder.{name}", _STAGE),
    *nest("dec.{name}", "decoder.{name}", _STAGE),
    Layer("enc.{name}", "encoder.{name}", "conv"),
]
_SONG = [
    *_SHARED,
    Layer("map_label", "labels", "linear"),
    Layer("dec.{size}_aux_norm", "decoder.{size}_aux_norm", "norm"),
    Layer("dec.{size}_aux_conv", "decoder.{size}_aux_conv", "conv"),
]
_ADM = [
    *_SHARED,
    Layer("map_label", "labels", "matrix"),
    Layer("out_norm", "norm", "norm"),
    Layer("out_conv", "head", "conv"),
]
_FREQUENCIES = Rule("map_noise.freqs", "features.frequencies")
_TABLES = {
    "song_unet": (_FREQUENCIES, *rules(_SONG)),
    "edm_adm_unet": rules(_ADM),
}
_PREFIX = "model."  # of the network inside its preconditioning
_SETTINGS = Settings(
    owner="NVlabs/edm",
    read=names(
        "class_name img_resolution img_channels label_dim augment_dim num_blocks "
        "model_channels channel_mult model_type embedding_type encoder_type "
        "resample_filter sigma_min sigma_max sigma_data beta_d beta_min epsilon_t M"
    ),
    only={
        "decoder_type": Only(("standard",), "its auxiliary outputs have no place"),
        "C_1": Only((0.001,), "the schedule of iDDPM is known for this value"),
        "C_2": Only((0.008,), "the schedule of iDDPM is known for this value"),
        "init_args": Only(
            ([], None), "the settings must have names; give them with --config"
        ),
    },
    harmless={
        SHAPES: names("channel_mult_emb channel_mult_noise attn_resolutions"),
        TRAINING: names("dropout label_dropout"),
        COMPUTING: names("use_fp16"),
        NAMING: names("project"),
        RECORDED: names("also_evaluated_as"),
    },
)


def settings(config: Config) -> dict[str, Any]:
    """Flatten `{"class_name": ..., "init_kwargs": {...}}`."""
    return flattened(config, ("init_kwargs",))


def plan(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a network of EDM, preconditioned or raw."""
    prefix = _PREFIX if f"{_PREFIX}map_layer0.weight" in shapes else ""
    bare = below(shapes, prefix)
    size = size_of(bare)
    arguments = arguments_of(bare, size)
    taps = taps_of(bare, config)
    filters = [name for name in shapes if name.endswith(f".{FILTER}")]
    if "out_norm.weight" in bare:
        architecture = Architecture.of("edm_adm_unet", **arguments)
    else:
        arguments |= song_arguments_of(bare) | {"taps": taps}
        architecture = Architecture.of("song_unet", **arguments)
    _check(config, architecture.name, arguments)
    image, _, out = arguments["channels"]
    check_channels(image, out)
    return Plan(
        architecture=architecture,
        rules=prefixed(prefix, _TABLES[architecture.name]),
        shape=(size, size, image),
        description=_prior(config, arguments["channels"]),
        constants={name: filter_of(taps) for name in filters},
    )


def table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules of a preconditioned network."""
    return prefixed(_PREFIX, _TABLES[architecture.name])


def buffers(architecture: Architecture) -> dict[str, np.ndarray]:
    """Return the resampling filters that a file of this network holds."""
    net = architecture.abstract()
    taps = architecture.to_json()["arguments"].get("taps", (1, 1))
    layers = []
    for side, order in (("enc", net.encoder_order), ("dec", net.decoder_order)):
        for name in order:
            if name.endswith(("_down", "_up")):
                layers += [f"{side}.{name}.conv0", f"{side}.{name}.skip"]
            elif name.endswith("_aux_residual"):
                layers.append(f"{side}.{name}")
    return {f"{_PREFIX}{layer}.{FILTER}": filter_of(taps) for layer in layers}


def _check(config: Config, name: str, arguments: dict[str, Any]) -> None:
    """Compare settings with what the shapes say."""
    widths = [level["width"] for level in arguments["levels"]]
    says = {
        "img_resolution": arguments["size"],
        "img_channels": arguments["channels"][0],
        "label_dim": arguments["inputs"]["classes"],
        "augment_dim": arguments["inputs"]["augment"],
        "num_blocks": arguments["levels"][0]["blocks"],
        "model_type": "SongUNet" if name == "song_unet" else "DhariwalUNet",
    }
    if name == "song_unet":
        says["embedding_type"] = arguments["embedding"]["kind"]
        says["encoder_type"] = arguments["encoder"]
    if config.get("model_channels") is not None:
        base = whole(config, "model_channels")
        says["channel_mult"] = [width / base for width in widths]
    check_agreement(config, says)


def _prior(config: Config, channels: list[int]) -> dict[str, Any]:
    """Describe the preconditioning, named as the classes of NVlabs/edm.

    The range is that of its sampler, within what the class says that it supports.
    """
    name = required(config, "class_name", "it names the preconditioning")
    if name == "EDMPrecond":
        edm = EDMPreconditioning(sigma_data=positive(config, "sigma_data", 0.5))
        return continuous_prior(edm, *_within(config, 0.002, 80.0))
    if name == "VPPrecond":
        return _variance_preserving(config)
    if name == "VEPrecond":
        return continuous_prior(VEPreconditioning(), *_within(config, 0.02, 100.0))
    if name == "iDDPMPrecond":
        rule = NearestNoisePrediction(
            betas=Betas.of("iddpm", num_timesteps=number_of_steps(config, "M"))
        )
        return discrete_prior(rule, learned_variance=channels[2] == 2 * channels[0])
    raise ConfigError(
        f"class_name must be EDMPrecond, VPPrecond, VEPrecond or iDDPMPrecond; got "
        f"{shown(name)}."
    )


def _variance_preserving(config: Config) -> dict[str, Any]:
    least = number(config, "beta_min", 0.1)
    rule = VPPreconditioning(
        beta_min=least,
        beta_max=least + positive(config, "beta_d", 19.9),
        label_scale=number_of_steps(config, "M") - 1,
    )
    sigma = VP(beta_min=rule.beta_min, beta_max=rule.beta_max).sigma
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        supported = {
            "sigma_min": float(sigma(number(config, "epsilon_t", 1e-5))),
            "sigma_max": float(sigma(1.0)),
        }
    return continuous_prior(rule, *_within(supported, 0.002, 150.0))


def _within(supported: Config, least: float, most: float) -> tuple[float, float]:
    """Return a range of noise levels, cut to what is supported."""
    return (
        max(least, number(supported, "sigma_min", least)),
        min(most, number(supported, "sigma_max", most)),
    )


EDM = Family(
    name="edm",
    title="network of NVlabs/edm (DDPM++, NCSN++, ADM)",
    detect=lambda s: f"{_PREFIX}map_layer0.weight" in s or "map_layer0.weight" in s,
    settings=settings,
    declared=_SETTINGS,
    plan=plan,
    architectures=("song_unet", "edm_adm_unet"),
    table=table,
    buffers=buffers,
)
