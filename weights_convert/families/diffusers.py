"""UNet2DModel of huggingface/diffusers with its scheduler, and its AutoencoderKL.

These files come with a configuration that says everything; settings that an old one
leaves out have the library's default values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffctl.diffusion.betas import Betas, spaced_timesteps
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import (
    NoisePrediction,
    SamplePrediction,
    VelocityPrediction,
)
from weights_convert.families.base import (
    AUTOENCODER,
    Config,
    ConfigError,
    Family,
    Plan,
    check_size,
    discrete_prior,
    number_of_steps,
    required,
)
from weights_convert.families.diffusers_layers import (
    AUTOENCODER_LAYERS,
    U_NET_LAYERS,
    autoencoder_table,
    u_net_table,
)
from weights_convert.mapping import Shapes, rules

_DEFAULTS: Mapping[str, Any] = {
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "class_embed_type": None,
    "num_class_embeds": None,
}
# Settings for which only one value can be converted.
_ONLY = {
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2D",
    "class_embed_type": None,
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
_PREDICTIONS = {
    "epsilon": NoisePrediction,
    "sample": SamplePrediction,
    "v_prediction": VelocityPrediction,
}
_RECIPES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}


def settings(config: Config) -> dict[str, Any]:
    """Return the configuration as it is."""
    return dict(config)


def plan_u_net(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a UNet2DModel."""
    known = {**_DEFAULTS, **config}
    for name, value in _ONLY.items():
        if known[name] != value:
            raise ConfigError(
                f"{name} = {known[name]!r} cannot be converted; only {value!r} can."
            )
    if known["attn_norm_num_groups"] not in (None, known["norm_num_groups"]):
        raise ConfigError(
            f"attn_norm_num_groups = {known['attn_norm_num_groups']!r} cannot be "
            f"converted; only norm_num_groups = {known['norm_num_groups']!r} can."
        )
    widths = required(config, "block_out_channels", "they are the widths of the levels")
    check_size(shapes, len(widths), known["layers_per_block"])
    down = _levels(known, widths, "down", known["layers_per_block"])
    up = _levels(known, widths[::-1], "up", known["layers_per_block"] + 1)
    film = known["resnet_time_scale_shift"] == "scale_shift"
    norm = not film or known["attn_norm_num_groups"] is not None
    size = required(config, "sample_size", "it is the height and width of the images")
    rows, columns = size if isinstance(size, list | tuple) else (size, size)
    stem, image = shapes["conv_in.weight"][:2]
    return Plan(
        architecture=Architecture.of(
            "ddpm_unet",
            channels=[image, stem, shapes["conv_out.weight"][0]],
            down=down,
            up=up,
            middle={
                "heads": _heads(known, widths[-1]) if known["add_attention"] else 0,
                "gain": 1 / known["mid_block_scale_factor"],
                "norm": norm,
            },
            style={
                "groups": known["norm_num_groups"],
                "epsilon": known["norm_eps"],
                "modulation": "film" if film else "additive",
            },
            time={
                "shift": known["freq_shift"],
                "sines_first": not known["flip_sin_to_cos"],
            },
            classes=known["num_class_embeds"] or 0,
        ),
        rules=rules(U_NET_LAYERS),
        shape=(rows, columns, image),
        description=_prior(required(config, "scheduler", "it is the noise schedule")),
    )


def schedule(scheduler: Config) -> Betas:
    """Return the variances of a scheduler configuration.

    Raises:
        ConfigError: the schedule cannot be converted.
    """
    if scheduler.get("rescale_betas_zero_snr"):
        raise ConfigError(
            "rescale_betas_zero_snr = true ends at an infinite noise level, which a "
            "denoiser in the coordinate x0 + sigma * eps cannot have."
        )
    if scheduler.get("trained_betas") is not None:
        return Betas.of("table", table=scheduler["trained_betas"])
    name = scheduler.get("beta_schedule", "linear")
    if name not in _RECIPES:
        raise ConfigError(
            f"beta_schedule = {name!r} cannot be converted; known are "
            f"{', '.join(_RECIPES)}."
        )
    return Betas.of(
        _RECIPES[name],
        num_timesteps=number_of_steps(scheduler, "num_train_timesteps"),
        start=scheduler.get("beta_start", 1e-4),
        end=scheduler.get("beta_end", 2e-2),
    )


def timesteps(scheduler: Config, num_steps: int) -> np.ndarray:
    """Return the training indices that its sampler visits, noisiest first."""
    return spaced_timesteps(
        number_of_steps(scheduler, "num_train_timesteps"),
        num_steps,
        spacing=scheduler.get("timestep_spacing", "leading"),
        offset=scheduler.get("steps_offset", 0),
    )


def _prior(scheduler: Config) -> dict[str, Any]:
    if not isinstance(scheduler, Mapping):
        raise ConfigError(
            f"scheduler = {scheduler!r}; it must be the object of a "
            "scheduler_config.json."
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ConfigError(
            f"prediction_type = {prediction!r} is unknown; known are "
            f"{', '.join(_PREDICTIONS)}."
        )
    learned = str(scheduler.get("variance_type", "")).startswith("learned")
    rule = _PREDICTIONS[prediction]
    return discrete_prior(rule, schedule(scheduler), learned_variance=learned)


def _levels(
    known: Config, widths: list[int], way: str, blocks: int
) -> list[dict[str, Any]]:
    """Return the fields of `LevelSpec` for encoder or decoder, in their order."""
    types = required(known, f"{way}_block_types", "they say where attention is")
    levels = []
    for number, (kind, width) in enumerate(zip(types, widths, strict=True)):
        if kind not in _BLOCKS:
            raise ConfigError(
                f"the block type {kind!r} cannot be converted; known are "
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
                    if number < len(widths) - 1
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
    head_width = known["attention_head_dim"]
    return 1 if head_width is None else width // head_width


def plan_autoencoder(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of an AutoencoderKL."""
    widths = required(config, "block_out_channels", "they are the widths of the levels")
    blocks = config.get("layers_per_block", 1)
    check_size(shapes, len(widths), blocks)
    levels = [
        {"width": width, "blocks": blocks, "resample": "corner"} for width in widths
    ]
    levels[-1]["resample"] = None
    stem, image = shapes["encoder.conv_in.weight"][:2]
    features = shapes["decoder.conv_in.weight"][1]
    latent = shapes.get("post_quant_conv.weight", (0, features))[1]
    size = required(config, "sample_size", "it is the height and width of the images")
    return Plan(
        architecture=Architecture.of(
            "autoencoder_kl",
            channels=[image, stem, features, latent],
            levels=levels,
            middle_heads=int(config.get("mid_block_add_attention", True)),
            quantised="quant_conv.weight" in shapes,
            groups=config.get("norm_num_groups", 32),
        ),
        rules=rules(AUTOENCODER_LAYERS),
        shape=(size, size, image),
        kind=AUTOENCODER,
        description={"scaling_factor": config.get("scaling_factor", 0.18215)},
    )


U_NET = Family(
    name="diffusers",
    title="UNet2DModel of huggingface/diffusers",
    detect=lambda s: "time_embedding.linear_1.weight" in s,
    settings=settings,
    plan=plan_u_net,
    architectures=("ddpm_unet",),
    table=u_net_table,
)
AUTOENCODER_KL = Family(
    name="autoencoder-kl",
    title="AutoencoderKL of huggingface/diffusers",
    detect=lambda s: "encoder.conv_norm_out.weight" in s,
    settings=settings,
    plan=plan_autoencoder,
    architectures=("autoencoder_kl",),
    table=autoencoder_table,
)
