"""AutoencoderKL of huggingface/diffusers, with the units of its latents."""

from typing import Any

from diffctl.nets.architecture import Architecture
from weights_convert.families.base import (
    AUTOENCODER,
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    check_size,
    flag,
    listed,
    number,
    positive,
    required,
    whole,
)
from weights_convert.families.diffusers_layers import (
    AUTOENCODER_LAYERS,
    SILU,
    autoencoder_table,
)
from weights_convert.families.looked import axes
from weights_convert.families.settings import (
    COMPUTING,
    NAMING,
    Only,
    Settings,
    names,
    shown,
)
from weights_convert.families.sizes import image_size
from weights_convert.mapping import Shapes, rules

_SETTINGS = Settings(
    owner="AutoencoderKL",
    read=names(
        "in_channels out_channels latent_channels block_out_channels layers_per_block "
        "down_block_types up_block_types norm_num_groups sample_size scaling_factor "
        "shift_factor latents_mean latents_std mid_block_add_attention use_quant_conv "
        "use_post_quant_conv"
    ),
    only={
        "_class_name": Only(("AutoencoderKL", None), "others have other layers"),
        "act_fn": Only(SILU, "blocks have no other nonlinearity"),
    },
    harmless={
        NAMING: names("_diffusers_version _name_or_path _use_default_values"),
        COMPUTING: names("force_upcast"),
        "it belongs to the pipeline's denoiser": names("scheduler pipeline"),
    },
)
_BLOCKS = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}


def plan_autoencoder(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of an AutoencoderKL."""
    required(config, "block_out_channels", "they are the widths of the levels")
    widths = listed(config, "block_out_channels", whole)
    blocks = config.get("layers_per_block", 1)
    check_size(shapes, len(widths), blocks)
    levels = [
        {"width": width, "blocks": blocks, "resample": "corner"} for width in widths
    ]
    levels[-1]["resample"] = None
    stem, image = axes(shapes, "encoder.conv_in.weight", 2)
    features = shapes["decoder.conv_in.weight"][1]
    latent = shapes.get("post_quant_conv.weight", (0, features))[1]
    rows, columns = image_size(config, "sample_size", len(widths))
    quantised = "quant_conv.weight" in shapes
    says = {
        "in_channels": image,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": features,
        "use_quant_conv": quantised,
        "use_post_quant_conv": quantised,
        **{f"{way}_block_types": [b] * len(widths) for way, b in _BLOCKS.items()},
    }
    check_agreement(config, says)
    return Plan(
        architecture=Architecture.of(
            "autoencoder_kl",
            channels=[image, stem, features, latent],
            levels=levels,
            middle_heads=int(flag(config, "mid_block_add_attention", default=True)),
            quantised=quantised,
            groups=whole(config, "norm_num_groups", 32),
        ),
        rules=rules(AUTOENCODER_LAYERS),
        shape=(rows, columns, image),
        kind=AUTOENCODER,
        description=_units(config, latent),
    )


def _units(config: Config, channels: int) -> dict[str, Any]:
    """Describe z = (mean - shift) scaling, as the library's pipelines compute it.

    Mean and standard deviation of the latents, where given, are per channel.

    Raises:
        ConfigError: they contradict each other or the number of channels.
    """
    scaling = positive(config, "scaling_factor", 0.18215)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    shift = number(config, "shift_factor", 0.0)
    if mean is None and std is None:
        return {"scaling_factor": scaling, "shift": shift}
    if mean is None or std is None or shift:
        raise ConfigError(
            f"latents_mean = {shown(mean)}, latents_std = {shown(std)}, "
            f"shift_factor = {shift} cannot be converted; give both of the former, or "
            "shift_factor alone."
        )
    mean = listed(config, "latents_mean", number)
    std = listed(config, "latents_std", number)
    if len(mean) != channels or len(std) != channels or 0 in std:
        raise ConfigError(
            f"latents_mean = {shown(mean)}, latents_std = {shown(std)}; they must hold "
            f"one number for each of the {channels} channels of the latents, std none "
            "of 0."
        )
    return {
        "scaling_factor": [scaling / deviation for deviation in std],
        "shift": mean,
    }


AUTOENCODER_KL = Family(
    name="autoencoder-kl",
    title="AutoencoderKL of huggingface/diffusers",
    detect=lambda s: "encoder.conv_norm_out.weight" in s,
    settings=dict,
    declared=_SETTINGS,
    plan=plan_autoencoder,
    architectures=("autoencoder_kl",),
    table=autoencoder_table,
)
