"""The DDPM U-Net in the layout of ermongroup/ddim and of pesser's CelebA-HQ files.

The shapes tell the structure; the size of the image must be given. The schedule is the
one of these projects, 1000 linear steps, unless the configuration says otherwise.
"""

from typing import Any

from diffctl.diffusion.betas import Betas
from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import NoisePrediction
from weights_convert.families.base import (
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    check_channels,
    discrete_prior,
    number_of_steps,
    variance,
)
from weights_convert.families.looked import axes, count
from weights_convert.families.settings import (
    NAMING,
    SAMPLING,
    SHAPES,
    TRAINING,
    Only,
    Settings,
    flattened,
    is_one_of,
    names,
    shown,
)
from weights_convert.families.sizes import image_size
from weights_convert.mapping import Layer, Rule, Shapes, nest, rules

RESIDUAL_BLOCK = [
    Layer("norm1", "norm1", "norm"),
    Layer("conv1", "conv1", "conv"),
    Layer("temb_proj", "modulation", "linear"),
    Layer("norm2", "norm2", "norm"),
    Layer("conv2", "conv2", "conv"),
    Layer("nin_shortcut", "skip", "conv"),
]
ATTENTION = [
    Layer("norm", "norm", "norm"),
    Layer("q", "qkv", "point2", part=0),
    Layer("k", "qkv", "point2", part=1),
    Layer("v", "qkv", "point2", part=2),
    Layer("proj_out", "out", "point2"),
]
DOWN = [
    *nest("down.{l}.block.{b}", "down.{l}.blocks.{b}", RESIDUAL_BLOCK),
    *nest("down.{l}.attn.{b}", "down.{l}.attentions.{b}", ATTENTION),
    Layer("down.{l}.downsample.conv", "down.{l}.resample", "conv"),
]
# The file counts the levels of the decoder from the finest, the network in their order.
UP = [
    *nest("up.{~l}.block.{b}", "up.{l}.blocks.{b}", RESIDUAL_BLOCK),
    *nest("up.{~l}.attn.{b}", "up.{l}.attentions.{b}", ATTENTION),
    Layer("up.{~l}.upsample.conv", "up.{l}.resample", "conv"),
]
MIDDLE = [
    *nest("mid.block_1", "middle.block1", RESIDUAL_BLOCK),
    *nest("mid.attn_1", "middle.attention", ATTENTION),
    *nest("mid.block_2", "middle.block2", RESIDUAL_BLOCK),
]
ENDS = [
    Layer("conv_in", "stem", "conv"),
    Layer("norm_out", "norm", "norm"),
    Layer("conv_out", "head", "conv"),
]
_TIME = [
    Layer("temb.dense.0", "time.linear1", "linear"),
    Layer("temb.dense.1", "time.linear2", "linear"),
]
_LAYERS = [*_TIME, *ENDS, *DOWN, *MIDDLE, *UP]
_UNIT_RANGE = "a prior is of images between -1 and 1"
_SETTINGS = Settings(
    owner="ermongroup/ddim",
    read=names(
        "image_size channels in_channels out_ch ch ch_mult num_res_blocks "
        "beta_schedule beta_start beta_end num_diffusion_timesteps"
    ),
    only={
        "type": Only(("simple",), "other networks have other tensors"),
        "resamp_with_conv": Only((True,), "the levels resample by a layer"),
        "rescaled": Only((True,), _UNIT_RANGE),
        "logit_transform": Only((False,), _UNIT_RANGE),
        "conditional": Only((False,), "the network is given nothing but the image"),
    },
    harmless={
        SHAPES: names("attn_resolutions"),
        TRAINING: names(
            "training optim dropout ema ema_rate dataset category random_flip "
            "uniform_dequantization gaussian_dequantization num_workers out_of_dist "
            "subset_1k"
        ),
        SAMPLING: names("sampling var_type"),
        NAMING: names("project class_name"),
    },
)


def table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules."""
    return rules(_LAYERS)


def settings(config: Config) -> dict[str, Any]:
    """Flatten the sections `data`, `model` and `diffusion` of the projects' files."""
    return flattened(flattened(config, ("config",)), ("data", "model", "diffusion"))


def encoder_levels(shapes: Shapes, prefix: str = "") -> list[dict[str, Any]]:
    """Return the fields of `LevelSpec` for the encoder, finest first."""
    num_levels = count(shapes, f"{prefix}down.{{}}.")
    levels = []
    for level in range(num_levels):
        at = f"{prefix}down.{level}."
        last = level == num_levels - 1
        levels.append(
            {
                "width": shapes[f"{at}block.0.conv1.weight"][0],
                "blocks": count(shapes, f"{at}block.{{}}."),
                "heads": int(f"{at}attn.0.q.weight" in shapes),
                "resample": None if last else "corner",
            }
        )
    return levels


def plan(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a DDPM U-Net."""
    down = encoder_levels(shapes)
    up = [
        spec | {"blocks": spec["blocks"] + 1, "resample": "convolution"}
        for spec in reversed(down)
    ]
    up[-1]["resample"] = None
    width, image = axes(shapes, "conv_in.weight", 2)
    out = shapes["conv_out.weight"][0]
    widths = [spec["width"] for spec in down]
    check_channels(image, out)
    check_agreement(
        config,
        {
            "ch": width,
            "ch_mult": [w // width for w in widths],
            "num_res_blocks": down[0]["blocks"],
            "in_channels": image,
            "channels": image,
            "out_ch": out,
        },
    )
    rows, columns = image_size(config, "image_size", len(down))
    return Plan(
        architecture=Architecture.of(
            "ddpm_unet",
            channels=[image, width, out],
            down=down,
            up=up,
            middle={"heads": 1, "gain": 1.0, "norm": True},
            style={"groups": 32, "epsilon": 1e-6, "modulation": "additive"},
            time={"shift": 1, "sines_first": True},
        ),
        rules=rules(_LAYERS),
        shape=(rows, columns, image),
        description=discrete_prior(
            NoisePrediction(betas=_betas(config)), learned_variance=False
        ),
    )


def _betas(config: Config) -> Betas:
    name = config.get("beta_schedule", "linear")
    start = variance(config, "beta_start", 1e-4)
    end = variance(config, "beta_end", 2e-2)
    recipes = {
        "linear": ("linear", start),
        "quad": ("scaled_linear", start),
        "const": ("linear", end),
        "sigmoid": ("sigmoid", start),
    }
    if not is_one_of(name, recipes):
        raise ConfigError(
            f"beta_schedule = {shown(name)} cannot be converted; known are "
            f"{', '.join(recipes)}."
        )
    recipe, first = recipes[name]
    steps = number_of_steps(config, "num_diffusion_timesteps")
    return Betas.of(recipe, num_timesteps=steps, start=first, end=end)


DDPM = Family(
    name="ddpm",
    title="DDPM U-Net of ermongroup/ddim",
    detect=lambda s: "temb.dense.0.weight" in s,
    settings=settings,
    declared=_SETTINGS,
    plan=plan,
    architectures=("ddpm_unet",),
    table=table,
)
