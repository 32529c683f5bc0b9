"""Settings of well-known checkpoints, by short name.

Only what the tensors do not tell, so that a name serves every variant (with classes or
without). The values are those of the projects' own instructions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class KnownCheckpoint(NamedTuple):
    """A public checkpoint: its family, its settings, and where it is described."""

    family: str
    settings: Mapping[str, Any]
    about: str


def _guided(about: str, size: int, **settings: Any) -> KnownCheckpoint:
    shared = {"image_size": size, "noise_schedule": "linear", "diffusion_steps": 1000}
    return KnownCheckpoint("guided-diffusion", shared | settings, about)


def _classifier(size: int) -> KnownCheckpoint:
    settings = {"image_size": size, "num_head_channels": 64}
    about = f"{size}x{size}_classifier.pt of openai/guided-diffusion"
    return KnownCheckpoint("guided-diffusion-classifier", settings, about)


def _edm(about: str, size: int) -> KnownCheckpoint:
    settings = {"class_name": "EDMPrecond", "img_resolution": size}
    return KnownCheckpoint("edm", settings, about)


_DIGITS = {
    "block_out_channels": [32, 64, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "sample_size": 28,
    "scheduler": {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 2e-2,
        "num_train_timesteps": 1000,
    },
}

CONFIGS: Mapping[str, KnownCheckpoint] = {
    "ffhq": _guided("ffhq_10m.pt of DPS2022", 256, num_head_channels=64),
    "imagenet256": _guided(
        "256x256_diffusion(_uncond).pt of openai/guided-diffusion",
        256,
        num_head_channels=64,
    ),
    "imagenet64": _guided(
        "64x64_diffusion.pt of openai/guided-diffusion",
        64,
        num_head_channels=64,
        use_new_attention_order=True,
        noise_schedule="cosine",
    ),
    "imagenet128": _guided(
        "128x128_diffusion.pt of openai/guided-diffusion", 128, num_heads=4
    ),
    "imagenet512": _guided(
        "512x512_diffusion.pt of openai/guided-diffusion", 512, num_head_channels=64
    ),
    "lsun": _guided(
        "lsun_{bedroom,cat,horse}.pt of openai/guided-diffusion",
        256,
        num_head_channels=64,
    ),
    **{f"imagenet{size}-classifier": _classifier(size) for size in (128, 256, 512)},
    "edm-cifar10": _edm("edm-cifar10-32x32-*.pkl of NVlabs/edm", 32),
    "edm-ffhq64": _edm("edm-ffhq-64x64-*.pkl of NVlabs/edm", 64),
    "edm-afhq": _edm("edm-afhqv2-64x64-*.pkl of NVlabs/edm", 64),
    "edm-imagenet64": _edm("edm-imagenet-64x64-cond-adm.pkl of NVlabs/edm", 64),
    "ddpm-celebahq": KnownCheckpoint(
        "ddpm", {"image_size": 256}, "celeba_hq.ckpt of ermongroup/SDEdit"
    ),
    "ddpm-mnist": KnownCheckpoint("diffusers", _DIGITS, "1aurent/ddpm-mnist"),
    "mnist-28": KnownCheckpoint(
        "diffusers",
        _DIGITS,
        "1aurent/mnist-28, the digits of the optimal-control paper",
    ),
}
