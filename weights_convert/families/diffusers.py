"""UNet2DModel of huggingface/diffusers with its scheduler.

These files come with a configuration that says everything; settings that an old one
leaves out have the library's default values.
"""

import re
from collections.abc import Mapping
from typing import Any

from diffctl.nets.architecture import Architecture
from weights_convert.families import schedulers
from weights_convert.families.base import (
    LATENT_PRIOR,
    PRIOR,
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    check_channels,
    check_size,
    flag,
    heads_of_width,
    listed,
    number,
    positive,
    required,
    whole,
)
from weights_convert.families.diffusers_layers import (
    SILU,
    U_NET_LAYERS,
    u_net_table,
)
from weights_convert.families.looked import axes
from weights_convert.families.schedulers import schedule as schedule
from weights_convert.families.schedulers import timesteps as timesteps
from weights_convert.families.settings import (
    NAMING,
    SHAPES,
    TRAINING,
    Only,
    Settings,
    is_one_of,
    names,
    shown,
)
from weights_convert.families.sizes import image_size
from weights_convert.mapping import Shapes, rules

_DEFAULTS: Mapping[str, Any] = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "mid_block_scale_factor": 1,
    "num_class_embeds": None,
}
# Block type: does it attend, and its resampling (None: as `downsample_type` says).
_BLOCKS: Mapping[str, tuple[bool, str | None]] = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}
_AVERAGES = names(  # of the library's EMAModel, written into the configuration
    "decay min_decay optimization_step update_after_step use_ema_warmup inv_gamma power"
)
_SETTINGS = Settings(
    owner="UNet2DModel",
    read=frozenset(_DEFAULTS)
    | names("block_out_channels down_block_types up_block_types sample_size pipeline")
    | names("in_channels out_channels"),
    only={
        "_class_name": Only(
            ("UNet2DModel", None), "other networks are given more than image and time"
        ),
        "time_embedding_type": Only(("positional",), "others embed the time otherwise"),
        "center_input_sample": Only((False,), "images are between -1 and 1 already"),
        "act_fn": Only(SILU, "blocks have no other nonlinearity"),
        "mid_block_type": Only(("UNetMidBlock2D",), "there is one middle block"),
        "use_linear_projection": Only((False,), "there are no transformer blocks"),
        "class_embed_type": Only((None,), "classes are looked up in a table"),
    },
    harmless={
        NAMING: names("_diffusers_version _name_or_path _use_default_values"),
        TRAINING: names("dropout") | _AVERAGES,
        SHAPES: names("time_embedding_dim"),
        "it concerns learned time embeddings": names("num_train_timesteps"),
    },
    sections={"scheduler": schedulers.declared},
)


def settings(config: Config) -> dict[str, Any]:
    """Return the configuration as it is."""
    return dict(config)


def plan_u_net(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a UNet2DModel."""
    known = {**_DEFAULTS, **config}
    if known["attn_norm_num_groups"] not in (None, known["norm_num_groups"]):
        raise ConfigError(
            f"attn_norm_num_groups = {shown(known['attn_norm_num_groups'])} cannot be "
            f"converted; only norm_num_groups = {shown(known['norm_num_groups'])} can."
        )
    required(config, "block_out_channels", "they are the widths of the levels")
    widths = listed(config, "block_out_channels", whole)
    check_size(shapes, len(widths), known["layers_per_block"])
    down = _levels(known, widths, "down", known["layers_per_block"])
    up = _levels(known, widths[::-1], "up", known["layers_per_block"] + 1)
    film = known["resnet_time_scale_shift"] == "scale_shift"
    norm = not film or known["attn_norm_num_groups"] is not None
    rows, columns = image_size(config, "sample_size", len(widths))
    stem, image = axes(shapes, "conv_in.weight", 2)
    out = shapes["conv_out.weight"][0]
    check_channels(image, out)
    check_agreement(config, {"in_channels": image, "out_channels": out})
    scheduler = required(config, "scheduler", "it is the noise schedule")
    return Plan(
        architecture=Architecture.of(
            "ddpm_unet",
            channels=[image, stem, out],
            down=down,
            up=up,
            middle={
                "heads": _heads(known, widths[-1])
                if flag(known, "add_attention")
                else 0,
                "gain": 1 / positive(known, "mid_block_scale_factor"),
                "norm": norm,
            },
            style={
                "groups": whole(known, "norm_num_groups"),
                "epsilon": positive(known, "norm_eps"),
                "modulation": "film" if film else "additive",
            },
            time={
                "shift": number(known, "freq_shift"),
                "sines_first": not flag(known, "flip_sin_to_cos"),
            },
            classes=_classes(known),
        ),
        rules=rules(U_NET_LAYERS),
        shape=(rows, columns, image),
        kind=_kind(config.get("pipeline")),
        description=schedulers.prior(scheduler, learns_variance=out == 2 * image),
    )


def _classes(known: Config) -> int:
    """Return how many classes the U-Net has a table for, 0 if it has none."""
    is_given = known["num_class_embeds"] not in (None, 0)
    return whole(known, "num_class_embeds") if is_given else 0


def _kind(pipeline: Any) -> str:
    """Return whose prior the U-Net of a pipeline is, by its `model_index.json`.

    Raises:
        ConfigError: of latents whose autoencoder cannot be converted.
    """
    parts = pipeline if isinstance(pipeline, Mapping) else {}
    for name, part in parts.items():
        kind = part[1] if isinstance(part, list) and len(part) == 2 else None
        if kind == "AutoencoderKL":
            return LATENT_PRIOR
        if kind is not None and re.search("Autoencoder|VQModel|Decoder", kind):
            raise ConfigError(
                f"the U-Net of this {parts.get('_class_name')} is a prior of latents, "
                f"and the {kind} in {name}/ that turns them into images cannot be "
                "converted; only an AutoencoderKL can."
            )
    return PRIOR


def _levels(
    known: Config, widths: list[int], way: str, blocks: int
) -> list[dict[str, Any]]:
    """Return the fields of `LevelSpec` for encoder or decoder, in their order."""
    types = required(known, f"{way}_block_types", "they say where attention is")
    if not isinstance(types, list | tuple) or len(types) != len(widths):
        raise ConfigError(
            f"{way}_block_types = {shown(types)}; it must be a list of {len(widths)} "
            "types, "
            "one for each of block_out_channels."
        )
    levels = []
    for place, (kind, width) in enumerate(zip(types, widths, strict=True)):
        if not is_one_of(kind, _BLOCKS):
            raise ConfigError(
                f"the block type {shown(kind)} cannot be converted; known are "
                f"{', '.join(_BLOCKS)}."
            )
        attends, resample = _BLOCKS[kind]
        levels.append(
            {
                "width": width,
                "blocks": blocks,
                "heads": _heads(known, width) if attends else 0,
                "resample": (
                    _resampling(known, way, resample)
                    if place < len(widths) - 1
                    else None
                ),
            }
        )
    return levels


def _resampling(known: Config, way: str, kind: str | None) -> str:
    """Return the name in `ladder.DOWN` or `ladder.UP`."""
    if (kind or known[f"{way}sample_type"]) == "resnet":
        return "residual"
    corner = way == "down" and known["downsample_padding"] == 0
    return "corner" if corner else "convolution"


def _heads(known: Config, width: int) -> int:
    if known["attention_head_dim"] is None:
        return 1
    return heads_of_width(known, "attention_head_dim", width)


U_NET = Family(
    name="diffusers",
    title="UNet2DModel of huggingface/diffusers",
    detect=lambda s: "time_embedding.linear_1.weight" in s,
    settings=settings,
    declared=_SETTINGS,
    plan=plan_u_net,
    architectures=("ddpm_unet",),
    table=u_net_table,
)
