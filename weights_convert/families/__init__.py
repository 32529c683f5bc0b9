"""The kinds of checkpoints that can be converted, by name."""

from weights_convert.families import (
    ddpm,
    diffusers,
    diffusers_autoencoder,
    digits,
    edm,
    guided,
    latent,
)
from weights_convert.families.base import Family

# Parts of names in networks of other kinds, and what would be needed.
STRANGERS = {
    **dict.fromkeys(
        ("lora_A", "lora_B", "lora_up", "lora_down", "lora"),
        "low-rank additions to a network (LoRA); add them to it first, in the library "
        "that trained them (fuse_lora or merge_and_unload), and save the whole",
    ),
    **dict.fromkeys(
        ("transformer_blocks", "x_embedder", "pos_embed", "joint_blocks"),
        "a transformer; it would need an architecture of that kind here",
    ),
    "quantize": "an autoencoder with a table of codes (VQ); only those with a Gaussian "
    "latent can be converted",
    "text_model": "a text encoder; give the U-Net",
    "exp_avg": "an optimiser; give the model's state dict",
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        guided.U_NET,
        guided.CONSISTENCY,
        guided.NOISY_CLASSIFIER,
        edm.EDM,
        ddpm.DDPM,
        diffusers.U_NET,
        diffusers_autoencoder.AUTOENCODER_KL,
        latent.FIRST_STAGE,
        digits.DIGITS,
    )
}
