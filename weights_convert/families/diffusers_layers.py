"""Names and layouts in files of huggingface/diffusers."""

from diffctl.nets.architecture import Architecture
from weights_convert.mapping import Layer, Rule, nest, rules

# The library looks activations up in small letters, and swish is another word for silu.
SILU = ("silu", "swish", "SiLU", "Swish", "SILU", "SWISH")
_RESIDUAL_BLOCK = [
    Layer("norm1", "norm1", "norm"),
    Layer("conv1", "conv1", "conv"),
    Layer("time_emb_proj", "modulation", "linear"),
    Layer("norm2", "norm2", "norm"),
    Layer("conv2", "conv2", "conv"),
    Layer("conv_shortcut", "skip", "conv"),
]


def _attention(query: str, key: str, value: str, out: str) -> list[Layer]:
    return [
        Layer(query, "qkv", "linear", part=0),
        Layer(key, "qkv", "linear", part=1),
        Layer(value, "qkv", "linear", part=2),
        Layer(out, "out", "linear"),
    ]


_ATTENTION = [
    Layer("group_norm", "norm", "norm"),
    *_attention("to_q", "to_k", "to_v", "to_out.0"),
    *_attention("query", "key", "value", "proj_attn"),  # until early 2023
]
_DOWN = [
    *nest("down_blocks.{l}.resnets.{b}", "down.{l}.blocks.{b}", _RESIDUAL_BLOCK),
    *nest("down_blocks.{l}.attentions.{b}", "down.{l}.attentions.{b}", _ATTENTION),
    Layer("down_blocks.{l}.downsamplers.0.conv", "down.{l}.resample", "conv"),
    *nest("down_blocks.{l}.downsamplers.0", "down.{l}.resample", _RESIDUAL_BLOCK),
]
_UP = [
    *nest("up_blocks.{l}.resnets.{b}", "up.{l}.blocks.{b}", _RESIDUAL_BLOCK),
    *nest("up_blocks.{l}.attentions.{b}", "up.{l}.attentions.{b}", _ATTENTION),
    Layer("up_blocks.{l}.upsamplers.0.conv", "up.{l}.resample", "conv"),
    *nest("up_blocks.{l}.upsamplers.0", "up.{l}.resample", _RESIDUAL_BLOCK),
]
_MIDDLE = [
    *nest("mid_block.resnets.0", "middle.block1", _RESIDUAL_BLOCK),
    *nest("mid_block.attentions.0", "middle.attention", _ATTENTION),
    *nest("mid_block.resnets.1", "middle.block2", _RESIDUAL_BLOCK),
]
_ENDS = [
    Layer("conv_in", "stem", "conv"),
    Layer("conv_norm_out", "norm", "norm"),
    Layer("conv_out", "head", "conv"),
]
_TIME = [
    Layer("time_embedding.linear_1", "time.linear1", "linear"),
    Layer("time_embedding.linear_2", "time.linear2", "linear"),
    Layer("class_embedding", "time.labels", "table"),
]
_CODER = [*_ENDS, *_DOWN, *_MIDDLE, *_UP]
U_NET_LAYERS = [*_TIME, *_CODER]
AUTOENCODER_LAYERS = [
    Layer("quant_conv", "to_latent", "conv"),
    Layer("post_quant_conv", "from_latent", "conv"),
    *nest("encoder", "encoder", _CODER),
    *nest("decoder", "decoder", _CODER),
]


def u_net_table(architecture: Architecture, order: str | None) -> tuple[Rule, ...]:
    """Return the rules of a UNet2DModel."""
    return rules(U_NET_LAYERS)


def autoencoder_table(
    architecture: Architecture, order: str | None
) -> tuple[Rule, ...]:
    """Return the rules of an AutoencoderKL."""
    return rules(AUTOENCODER_LAYERS)
