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
