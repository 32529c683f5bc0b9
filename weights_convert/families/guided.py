"""U-Nets of openai/guided-diffusion and openai/consistency_models, and the classifier.

The shapes tell the structure: levels, widths, blocks, where attention is, how the noise
level enters, how blocks resample, classes, learned variance. They do not tell the size
of the image, the number of heads and the order of the attention channels.
"""

from typing import Any

from diffctl.nets.architecture import Architecture
from diffctl.priors.preconditioning import (
    ConsistencyPreconditioning,
    EDMPreconditioning,
)
from weights_convert.families.base import (
    CLASSIFIER,
    Config,
    ConfigError,
    Family,
    Plan,
    check_agreement,
    check_channels,
    continuous_prior,
    flag,
    heads_of_width,
    number_of_heads,
    positive,
    required,
)
from weights_convert.families.guided_layers import (
    classifier_table,
    consistency_table,
    u_net_table,
)
from weights_convert.families.guided_prior import prior, remarks, steps_of
from weights_convert.families.guided_settings import (
    CLASSIFIER_SETTINGS,
    CONSISTENCY_SETTINGS,
    FLAGS,
    U_NET_SETTINGS,
)
from weights_convert.families.looked import count
from weights_convert.families.settings import flattened, shown
from weights_convert.families.sizes import check_halvings, image_size
from weights_convert.mapping import Shapes

_SECTIONS = ("create_model", "unet_model", "encoder_unet_model", "denoiser")


def settings(config: Config) -> dict[str, Any]:
    """Flatten a configuration file of the projects, or flags of their scripts."""
    known = flattened(config, _SECTIONS)
    multipliers = known.get("channel_mult")
    if isinstance(multipliers, str):  # as the scripts take it; "" means by image size
        words = [word.strip() for word in multipliers.split(",") if word.strip()]
        if not all(word.isdecimal() for word in words):
            raise ConfigError(
                f"channel_mult = {shown(multipliers)}; it must be whole numbers with "
                "commas "
                "between them."
            )
        known["channel_mult"] = [int(word) for word in words] or None
    return known


def structure(shapes: Shapes, num_levels: int, entries: int) -> dict[str, Any]:
    """Return the constructor arguments that U-Net and classifier share, without heads.

    Args:
        shapes: the tensors of the file.
        num_levels: resolutions of the encoder.
        entries: stages of the encoder, which is as many as in the decoder.
    """
    blocks = entries // num_levels - 1
    levels, attended = [], []
    for level in range(num_levels):
        first = 1 + level * (blocks + 1)
        out = shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0]
        levels.append({"width": out, "blocks": blocks})
        attended.append(f"input_blocks.{first}.1.qkv.weight" in shapes)
    film = shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * levels[0]["width"]
    strided = any(name.endswith("0.op.weight") for name in shapes)
    return {
        "width": shapes["time_embed.0.weight"][1],
        "levels": levels,
        "attended": attended,
        "modulation": "film" if film else "additive",
        "resample": "convolution" if strided else "residual",
    }


def _with_heads(found: dict[str, Any], config: Config) -> dict[str, Any]:
    """Fill in the numbers of heads; remove the note on where attention is."""
    attended = found.pop("attended")
    has_own_up = not _is_left(config, "num_heads_upsample")
    by_number = _is_left(config, "num_head_channels")
    for level, attends in zip(found["levels"], attended, strict=True):
        heads = _heads(config, level["width"]) if attends else 0
        level["heads"] = heads
        level["heads_up"] = heads
        if has_own_up and by_number and attends:
            level["heads_up"] = number_of_heads(
                config, "num_heads_upsample", level["width"]
            )
    return found | {"middle_heads": _heads(config, found["levels"][-1]["width"])}


def _heads(config: Config, width: int) -> int:
    if not _is_left(config, "num_head_channels"):
        return heads_of_width(config, "num_head_channels", width)
    required(config, "num_heads", "it is the number of attention heads")
    return number_of_heads(config, "num_heads", width)


def _is_left(config: Config, name: str) -> bool:
    """Return whether a number of heads or their width is left to another setting."""
    return config.get(name) in (None, -1)


def _says(found: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Return the settings that the shapes tell."""
    width = found["width"]
    widths = [level["width"] for level in found["levels"]]
    says = {
        "model_channels": width,
        "num_channels": width,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "num_res_blocks": found["levels"][0]["blocks"],
        "use_scale_shift_norm": found["modulation"] == "film",
    }
    if all(w % width == 0 for w in widths):
        says["channel_mult"] = [w // width for w in widths]
    if len(widths) > 1:
        says["resblock_updown"] = found["resample"] == "residual"
    return says


def _u_net(shapes: Shapes, config: Config) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the arguments of the U-Net and the shape of the image."""
    entries = count(shapes, "output_blocks.{}.")
    ups = {
        name.split(".")[1]
        for name in shapes
        if name.startswith("output_blocks.")
        and name.split(".")[2] != "0"
        and name.split(".")[3] in ("in_layers", "conv")
    }
    found = structure(shapes, 1 + len(ups), entries)
    classes = shapes.get("label_emb.weight", (0,))[0]
    channels = [shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]]
    says = _says(found, shapes) | {
        "num_classes": classes or None,
        "class_cond": classes > 0,
        "out_channels": channels[1],
        "learn_sigma": channels[1] == 2 * channels[0],
    }
    check_channels(*channels)
    check_agreement(config, says)
    rows, columns = image_size(config, "image_size", len(found["levels"]))
    arguments = _with_heads(found, config) | {"channels": channels, "classes": classes}
    return arguments, (rows, columns, channels[0])


def plan_u_net(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a guided-diffusion U-Net."""
    arguments, shape = _u_net(shapes, config)
    order = _order(config)
    architecture = Architecture.of("adm_unet", **arguments)
    return Plan(
        architecture=architecture,
        rules=u_net_table(architecture, order),
        shape=shape,
        description=prior(config, *arguments["channels"]),
        order=order,
        remarks=remarks(config),
    )


def plan_consistency(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of a consistency model, or of its EDM teacher."""
    arguments, shape = _u_net(shapes, config)
    data = {"sigma_data": positive(config, "sigma_data", 0.5), "noise_gain": 250.0}
    least, most = (
        positive(config, "sigma_min", 0.002),
        positive(config, "sigma_max", 80.0),
    )
    rule = (
        ConsistencyPreconditioning(sigma_min=least, **data)
        if _is_student(config)
        else EDMPreconditioning(**data)
    )
    architecture = Architecture.of("adm_unet", **arguments)
    return Plan(
        architecture=architecture,
        rules=consistency_table(architecture, None),
        shape=shape,
        description=continuous_prior(rule, least, most),
    )


def _is_student(config: Config) -> bool:
    """Return whether the network has the boundary condition, as its project decides."""
    if config.get("distillation") is not None:
        return flag(config, "distillation")
    return "consistency" in str(config.get("training_mode") or "consistency")


def plan_classifier(shapes: Shapes, config: Config) -> Plan:
    """Plan the conversion of the classifier of noisy images."""
    pixels = shapes["out.2.positional_embedding"][1] - 1
    rows, columns = image_size(config, "image_size", 1)
    num_levels = 1 + max(0, (rows * columns // pixels).bit_length() - 1) // 2
    check_halvings("image_size", (rows, columns), num_levels)
    if rows * columns != pixels * 4 ** (num_levels - 1):
        raise ConfigError(
            f"image_size = {shown(config['image_size'])}; the classifier pools "
            f"{pixels} "
            "pixels, and halving such images does not lead there."
        )
    entries = count(shapes, "input_blocks.{}.")
    found = structure(shapes, num_levels, entries)
    bottom = found["levels"][-1]["width"]
    says = _says(found, shapes)
    says["out_channels"] = shapes["out.2.c_proj.weight"][0]
    named = {name: says[own] for own, name in FLAGS.items() if own in says}
    check_agreement(config, says | named)
    required(config, "num_head_channels", "it is the width of an attention head")
    heads = heads_of_width(config, "num_head_channels", bottom)
    arguments = _with_heads(found, config) | {
        "channels": shapes["input_blocks.0.0.weight"][1],
        "pool": {
            "pixels": pixels,
            "heads": heads,
            "classes": shapes["out.2.c_proj.weight"][0],
        },
    }
    architecture = Architecture.of("adm_classifier", **arguments)
    if flag(config, "rescale_timesteps") and steps_of(config) != 1000:
        raise ConfigError(
            "rescale_timesteps = true of a classifier cannot be converted unless there "
            "are 1000 steps: it is asked with the time label that it is given. Give "
            "labels times 1000 / steps, and a --config without it."
        )
    order = _order(config)
    return Plan(
        architecture=architecture,
        rules=classifier_table(architecture, order),
        shape=(rows, columns, arguments["channels"]),
        kind=CLASSIFIER,
        order=order,
    )


def _order(config: Config) -> str:
    return "new" if flag(config, "use_new_attention_order") else "legacy"


def _is_guided(shapes: Shapes) -> bool:
    return "time_embed.0.weight" in shapes and "input_blocks.0.0.weight" in shapes


def _attention_axes(shapes: Shapes) -> int:
    return len(shapes.get("middle_block.1.qkv.weight", ()))


U_NET = Family(
    name="guided-diffusion",
    title="U-Net of openai/guided-diffusion (ADM)",
    detect=lambda s: _is_guided(s) and "out.2.weight" in s and _attention_axes(s) == 3,
    settings=settings,
    declared=U_NET_SETTINGS,
    plan=plan_u_net,
    architectures=("adm_unet",),
    table=u_net_table,
)
CONSISTENCY = Family(
    name="consistency",
    title="U-Net of openai/consistency_models",
    detect=lambda s: _is_guided(s) and "out.2.weight" in s and _attention_axes(s) == 4,
    settings=settings,
    declared=CONSISTENCY_SETTINGS,
    plan=plan_consistency,
    architectures=("adm_unet",),
    table=consistency_table,
)
NOISY_CLASSIFIER = Family(
    name="guided-diffusion-classifier",
    title="classifier of openai/guided-diffusion",
    detect=lambda s: _is_guided(s) and "out.2.positional_embedding" in s,
    settings=settings,
    declared=CLASSIFIER_SETTINGS,
    plan=plan_classifier,
    architectures=("adm_classifier",),
    table=classifier_table,
)
