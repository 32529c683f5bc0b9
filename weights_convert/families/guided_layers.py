"""Names and layouts in files of guided diffusion and of consistency models."""

from diffctl.nets.architecture import Architecture
from weights_convert.mapping import Layer, Rule, nest, rules

_RESIDUAL_BLOCK = [
    Layer("in_layers.0", "norm1", "norm"),
    Layer("in_layers.2", "conv1", "conv"),
    Layer("emb_layers.1", "modulation", "linear"),
    Layer("out_layers.0", "norm2", "norm"),
    Layer("out_layers.3", "conv2", "conv"),
    Layer("skip_connection", "skip", "conv"),
]
_TIME = [
    Layer("time_embed.0", "time.linear1", "linear"),
    Layer("time_embed.2", "time.linear2", "linear"),
    Layer("label_emb", "time.labels", "table"),
]
_U_NET_HEAD = [Layer("out.0", "norm", "norm"), Layer("out.2", "head", "conv")]
_POOL = [
    Layer("out.0", "norm", "norm"),
    Layer("out.2.qkv_proj", "pool.qkv", "point1"),
    Layer("out.2.c_proj", "pool.out", "point1"),
]
# How the attention channels are ordered, and the transform that brings them into order.
_ORDERS = {"legacy": "head_qkv_width", "new": ""}
_POSITIONS = Rule("out.2.positional_embedding", "pool.positions", ("transpose",))


def layers(order: str, point: str) -> list[Layer]:
    """Return the layers of encoder, middle and decoder.

    Args:
        order: transform that brings the attention channels into order, "" for none.
        point: kind of the attention's 1x1 layers.
    """
    attention = [
        Layer("norm", "norm", "norm"),
        Layer("qkv", "qkv", point, order),
        Layer("proj_out", "out", point),
    ]
    stage = [*_RESIDUAL_BLOCK, *attention]
    return [
        *_TIME,
        Layer("input_blocks.0.0", "encoder.0.0", "conv"),
        *nest("input_blocks.{i}.{j}", "encoder.{i}.{j}", stage),
        Layer("input_blocks.{i}.{j}.op", "encoder.{i}.{j}", "conv"),
        *nest("middle_block.{j}", "middle.{j}", stage),
        *nest("output_blocks.{i}.{j}", "decoder.{i}.{j}", stage),
        Layer("output_blocks.{i}.{j}.conv", "decoder.{i}.{j}", "conv"),
    ]


def u_net_table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules of a guided-diffusion U-Net."""
    return rules([*layers(_ORDERS[order or "legacy"], "point1"), *_U_NET_HEAD])


def consistency_table(
    architecture: Architecture, order: str | None
) -> tuple[Rule, ...]:
    """Return the rules of a consistency model."""
    return rules([*layers("", "point2"), *_U_NET_HEAD])


def classifier_table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules of the classifier; its pooling has the new order always."""
    blocks = layers(_ORDERS[order or "legacy"], "point1")
    return (_POSITIONS, *rules([*blocks, *_POOL]))
