"""The KL autoencoder of CompVis/latent-diffusion (first stage).

The shapes tell the structure. A file of a whole latent diffusion model holds other
networks as well; these tensors are named in the report and left out.
"""

from typing import Any

import numpy as np

from diffctl.nets.architecture import Architecture
from weights_convert.families.base import (
    AUTOENCODER,
    Config,
    Family,
    Plan,
    check_agreement,
    positive,
)
from weights_convert.families.ddpm import DOWN, ENDS, MIDDLE, UP, encoder_levels
from weights_convert.families.looked import axes, below
from weights_convert.families.settings import (
    NAMING,
    SHAPES,
    TRAINING,
    Only,
    Settings,
    flattened,
    names,
)
from weights_convert.families.sizes import image_size
from weights_convert.mapping import Layer, Rule, Shapes, nest, prefixed, rules

_STAGE = "first_stage_model."
_SCALE = "scale_factor"
_AVERAGES = "model_ema."  # of the denoiser, where there is one; else of this network
_OTHERS = (
    "loss.",
    "first_stage_model.loss.",
    "model.",
    "cond_stage_model.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "logvar",
)
_TARGETS = (  # classes with the same tensors
    "ldm.models.autoencoder.AutoencoderKL",
    "sgm.models.autoencoder.AutoencoderKL",
    "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
)
_SETTINGS = Settings(
    owner="first stage of latent diffusion",
    read=names(
        "resolution in_channels out_ch ch ch_mult num_res_blocks z_channels embed_dim "
        "scale_factor"
    ),
    only={
        "target": Only((*_TARGETS, None), "other first stages have other tensors"),
        "double_z": Only((True,), "the encoder returns mean and variance"),
        "attn_type": Only(
            # The second computes the same in another way.
            ("vanilla", "vanilla-xformers"),
            "the attention is the plain one",
        ),
        "use_linear_attn": Only((False,), "the attention is the plain one"),
        "resamp_with_conv": Only((True,), "the levels resample by a layer"),
        "give_pre_end": Only((False,), "the decoder returns images"),
        "tanh_out": Only((False,), "the decoder returns what its last layer does"),
    },
    harmless={
        SHAPES: names("attn_resolutions"),
        TRAINING: names(
            "dropout lossconfig loss_type ckpt_path ignore_keys monitor "
            "colorize_nlabels log_every_t scheduler_config use_ema data lightning "
            "base_learning_rate"
        ),
        NAMING: names("image_key first_stage_key cond_stage_key"),
        "the file's own scale_factor is compared instead": names("scale_by_std"),
        "it concerns the denoiser, which is not converted": names(
            "unet_config cond_stage_config linear_start linear_end timesteps channels "
            "image_size num_timesteps_cond cond_stage_trainable concat_mode "
            "conditioning_key beta_schedule parameterization v_posterior "
            "original_elbo_weight learn_logvar load_only_unet given_betas"
        ),
    },
)
_CODERS = [
    Layer("quant_conv", "to_latent", "conv"),
    Layer("post_quant_conv", "from_latent", "conv"),
    *nest("encoder", "encoder", [*ENDS, *DOWN, *MIDDLE]),
    *nest("decoder", "decoder", [*ENDS, *UP, *MIDDLE]),
]


def table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules of a first stage in a file of its own."""
    return rules(_CODERS)


def settings(config: Config) -> dict[str, Any]:
    """Flatten a file of the project down to the section `ddconfig`.

    The file is that of a first stage or of a whole latent diffusion model, whose
    latents are not scaled unless it says so.
    """
    known = flattened(flattened(config, ("model",)), ("params",))
    if "first_stage_config" in known:
        stage = flattened(known.pop("first_stage_config"), ("params",))
        known = {_SCALE: 1.0} | known | stage
    return flattened(known, ("ddconfig",))


def plan(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a first stage."""
    prefix = _prefix(shapes)
    bare = below(shapes, prefix)
    stem, image = axes(bare, "encoder.conv_in.weight", 2)
    features = bare["decoder.conv_in.weight"][1]
    levels = encoder_levels(bare, "encoder.")
    latent = bare["post_quant_conv.weight"][1]
    says = {
        "in_channels": image,
        "out_ch": image,
        "ch": stem,
        "ch_mult": [level["width"] / stem for level in levels],
        "num_res_blocks": levels[0]["blocks"],
        "z_channels": features,
        "embed_dim": latent,
    }
    check_agreement(config, says)
    scale = positive(config, _SCALE, 0.18215)
    rows, columns = image_size(config, "resolution", len(levels))
    return Plan(
        architecture=Architecture.of(
            "autoencoder_kl",
            channels=[image, stem, features, latent],
            levels=levels,
            middle_heads=1,
            quantised=True,
            groups=32,
        ),
        rules=prefixed(prefix, rules(_CODERS)),
        shape=(rows, columns, image),
        kind=AUTOENCODER,
        description={"scaling_factor": scale},
        constants={_SCALE: np.asarray(scale, np.float32)} if _SCALE in shapes else {},
        ignored=(*_OTHERS, _AVERAGES) if prefix else _OTHERS,
    )


def _prefix(shapes: Shapes) -> str:
    return _STAGE if f"{_STAGE}encoder.conv_in.weight" in shapes else ""


FIRST_STAGE = Family(
    name="latent-diffusion",
    title="first stage of CompVis/latent-diffusion",
    detect=lambda s: f"{_prefix(s)}encoder.norm_out.weight" in s,
    settings=settings,
    declared=_SETTINGS,
    plan=plan,
    architectures=("autoencoder_kl",),
    table=table,
)
