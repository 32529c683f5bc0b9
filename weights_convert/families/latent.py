"""The KL autoencoder of CompVis/latent-diffusion (first stage).

The shapes tell the structure. A file of a whole latent diffusion model holds other
networks as well; these tensors are named in the report and left out.
"""

from typing import Any

from diffctl.nets.architecture import Architecture
from weights_convert.families.base import AUTOENCODER, Config, Family, Plan, required
from weights_convert.families.ddpm import DOWN, ENDS, MIDDLE, UP, encoder_levels
from weights_convert.mapping import Layer, Rule, Shapes, nest, prefixed, rules

_STAGE = "first_stage_model."
_OTHERS = (
    "loss.",
    "first_stage_model.loss.",
    "model.",
    "model_ema.",
    "cond_stage_model.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "logvar",
    "scale_factor",
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
    """Return the configuration, or the section `ddconfig` of the project's files."""
    return dict(config) | dict(config.get("ddconfig", {}))


def plan(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a first stage."""
    prefix = _prefix(shapes)
    bare = {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
    stem, image = bare["encoder.conv_in.weight"][:2]
    features = bare["decoder.conv_in.weight"][1]
    size = required(config, "resolution", "it is the height and width of the images")
    return Plan(
        architecture=Architecture.of(
            "autoencoder_kl",
            channels=[image, stem, features, bare["post_quant_conv.weight"][1]],
            levels=encoder_levels(bare, "encoder."),
            middle_heads=1,
            quantised=True,
            groups=32,
        ),
        rules=prefixed(prefix, rules(_CODERS)),
        shape=(size, size, image),
        kind=AUTOENCODER,
        description={"scaling_factor": config.get("scale_factor", 0.18215)},
        ignored=_OTHERS,
    )


def _prefix(shapes: Shapes) -> str:
    return _STAGE if f"{_STAGE}encoder.conv_in.weight" in shapes else ""


FIRST_STAGE = Family(
    name="latent-diffusion",
    title="first stage of CompVis/latent-diffusion",
    detect=lambda s: f"{_prefix(s)}encoder.norm_out.weight" in s,
    settings=settings,
    plan=plan,
    architectures=("autoencoder_kl",),
    table=table,
)
