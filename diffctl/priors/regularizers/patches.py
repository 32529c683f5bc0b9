"""Square patches of an image: cut out, found again elsewhere, put back.

Patches lie wholly inside the image; a patch is named by its upper left pixel.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PatchGrid(NamedTuple):
    """Positions of reference patches, and where similar ones are looked for."""

    references: np.ndarray  # (R, 2)
    search: int  # side of the window of candidates
    size: int  # side of a patch


def patch_grid(
    shape: tuple[int, ...], size: int, stride: int, search: int
) -> PatchGrid:
    """Cover an image by reference patches, the last ones flush with the border.

    Raises:
        ValueError: a patch that is larger than the image, or sizes below 1.
    """
    last = [n - size for n in shape[:2]]
    if size < 1 or stride < 1 or search < 1 or min(last) < 0:
        raise ValueError(
            f"patches of side {size}, stride {stride}, window {search}; expected "
            f"positive integers, and patches that fit into an image of shape {shape}."
        )
    ticks = [sorted({*range(0, end, stride), end}) for end in last]
    references = np.asarray(list(itertools.product(*ticks)))
    return PatchGrid(references, min(search, *(end + 1 for end in last)), size)


def all_patches(image: jax.Array, size: int) -> jax.Array:
    """Return every patch as a vector, (H - size + 1, W - size + 1, size^2 C)."""
    height, width = (n - size + 1 for n in image.shape[:2])
    shifts = itertools.product(range(size), range(size))
    parts = [image[i : i + height, j : j + width] for i, j in shifts]
    return jnp.concatenate(parts, axis=-1)


def similar_patches(
    patches: jax.Array, reference: jax.Array, search: int, count: int
) -> jax.Array:
    """Return the positions (count, 2) of the patches nearest to that at `reference`.

    Candidates fill a window of side `search` around the reference, moved inside the
    image. The reference itself comes first.
    """
    limits = jnp.asarray(patches.shape[:2]) - search
    corner = jnp.clip(reference - search // 2, 0, limits)
    window = jax.lax.dynamic_slice(
        patches,
        jnp.append(corner, jnp.zeros_like(corner[0])),
        (search, search, patches.shape[-1]),
    )
    centre = patches[reference[0], reference[1]]
    distances = jnp.sum((window - centre[None, None, :]) ** 2, axis=-1)
    own = reference - corner
    distances = distances.at[own[0], own[1]].set(-1)  # before equal ones
    _, nearest = jax.lax.top_k(-jax.lax.stop_gradient(distances).ravel(), count)
    return corner[None, :] + jnp.stack([nearest // search, nearest % search], axis=-1)


def put_back(
    groups: jax.Array, positions: jax.Array, size: int, shape: tuple[int, ...]
) -> jax.Array:
    """Return the image in which every pixel is the mean over the patches that hold it.

    Args:
        groups: patches (N, size^2 C), ordered as by `all_patches`.
        positions: (N, 2).
        size: side of a patch.
        shape: of the image.
    """
    channels = shape[2]
    shifts = np.asarray(list(itertools.product(range(size), range(size))))
    at = positions[:, None, :] + shifts[None, :, :]  # (N, size^2, 2)
    pixels = groups.reshape(groups.shape[0], size * size, channels)
    total = jnp.zeros(shape, groups.dtype).at[at[..., 0], at[..., 1]].add(pixels)
    count = jnp.zeros(shape[:2], groups.dtype).at[at[..., 0], at[..., 1]].add(1)
    return total / jnp.maximum(count, 1)[..., None]
