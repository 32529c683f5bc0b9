"""What the tensors of NVlabs/edm tell of a network: resolutions, widths and filters."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from weights_convert.families.base import Config, ConfigError, listed, number
from weights_convert.families.looked import axes, count
from weights_convert.families.settings import shown
from weights_convert.families.sizes import check_halvings
from weights_convert.mapping import MappingError, Shapes

FILTER = "resample_filter"
_RESOLUTION = re.compile(r"enc\.(\d{1,9})x\d+_")
_KNOWN_TAPS = {2: (1, 1), 4: (1, 3, 3, 1)}


def filter_of(taps: Sequence[float]) -> np.ndarray:
    """Return the buffer that files hold of a separable filter."""
    kernel = np.outer(taps, taps)[None, None] / np.sum(taps) ** 2
    return kernel.astype(np.float32)


def _sizes(bare: Shapes) -> list[int]:
    """Return the resolutions of the encoder, finest first."""
    found = (_RESOLUTION.match(name) for name in bare)
    return sorted({int(match[1]) for match in found if match}, reverse=True)


def size_of(bare: Shapes) -> int:
    """Return the height and width of the images, which every level halves.

    Raises:
        MappingError: the names have no resolutions, or others than its halves.
        ConfigError: they cannot be halved as often.
    """
    sizes = _sizes(bare)
    if not sizes or sizes != [sizes[0] >> level for level in range(len(sizes))]:
        raise MappingError(
            f"the encoder has the resolutions {sizes[:10]}, by the names of its "
            "tensors; each must be half the one before."
        )
    check_halvings("img_resolution", (sizes[0], sizes[0]), len(sizes))
    return sizes[0]


def arguments_of(bare: Shapes, size: int) -> dict[str, Any]:
    """Return the constructor arguments that both kinds share."""
    levels = []
    for resolution in _sizes(bare):
        at = f"enc.{resolution}x{resolution}_block"
        levels.append(
            {
                "width": bare[f"{at}0.conv1.weight"][0],
                "blocks": count(bare, f"{at}{{}}."),
                "attention": f"{at}0.qkv.weight" in bare,
            }
        )
    stem = bare[f"enc.{size}x{size}_conv.weight"]
    last = "out_conv" if "out_conv.weight" in bare else f"dec.{size}x{size}_aux_conv"
    width, features = axes(bare, "map_layer0.weight", 2)
    return {
        "size": size,
        "channels": [stem[1], stem[0], bare[f"{last}.weight"][0]],
        "levels": levels,
        "embedding": {"features": features, "width": width},
        "inputs": {
            "classes": bare.get("map_label.weight", (0, 0))[1],
            "augment": bare.get("map_augment.weight", (0, 0))[1],
        },
    }


def song_arguments_of(bare: Shapes) -> dict[str, Any]:
    """Return the constructor arguments that DDPM++ and NCSN++ alone have."""
    width, features = axes(bare, "map_layer0.weight", 2)
    kind = "fourier" if "map_noise.freqs" in bare else "positional"
    residual = any("_aux_residual." in name for name in bare)
    return {
        "embedding": {"kind": kind, "features": features, "width": width},
        "encoder": "residual" if residual else "standard",
    }


def taps_of(bare: Shapes, config: Config) -> tuple[int, ...]:
    """Return the taps of the resampling filter, by its length if not given."""
    lengths = {shape[-1] for name, shape in bare.items() if name.endswith(FILTER)}
    if config.get("resample_filter") is not None:
        return _given_taps(config)
    known = [_KNOWN_TAPS[n] for n in lengths if n in _KNOWN_TAPS]
    return known[0] if known else (1, 1)


def _given_taps(config: Config) -> tuple[Any, ...]:
    """Return the taps that the configuration gives.

    Raises:
        ConfigError: a filter of such taps does not resample images by two.
    """
    taps = listed(config, "resample_filter", number)
    if len(taps) % 2 or not all(map(math.isfinite, taps)) or not sum(taps):
        raise ConfigError(
            f"resample_filter = {shown(taps)}; it must be a list of an even number "
            "of taps, "
            "such as [1, 1] or [1, 3, 3, 1]: all finite, with a sum that is not 0. "
            "One of an odd number does not double the size of an image."
        )
    return tuple(taps)
