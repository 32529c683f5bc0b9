"""Low rank: of the image as a matrix, and of groups of similar patches.

1. nuclear norm  R(X) = weight sum_i s_i(X);   prox: s_i <- max(s_i - step weight, 0)
2. patches       around every reference patch, its nearest ones as columns of a matrix;
                 their mean is taken out, singular values shrunk, patches put back as
                 means where they overlap
3. weighted      s_i <- max(s_i - c sqrt(K) n^2 / sqrt(max(s_i^2 - K n^2, 0)), 0) for K
                 patches of noise level n
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior
from diffctl.numerics.safe import safe_sqrt
from diffctl.numerics.shrinkage import map_singular_values
from diffctl.priors.regularizers.checks import check_image, check_weight
from diffctl.priors.regularizers.patches import (
    PatchGrid,
    all_patches,
    patch_grid,
    put_back,
    similar_patches,
)
from diffctl.pytree import pytree_dataclass, static

# (s, noise level, rows, columns) -> shrunk singular values.
Shrinkage = Callable[[jax.Array, jax.Array, int, int], jax.Array]


@pytree_dataclass
class NuclearNorm(ProximalPrior):
    """The sum of the singular values: matrices of low rank, channel by channel.

    Args:
        weight: lambda in f(x) + lambda R(x), f(x) = |A x - y|^2 / (2 s_y^2).
        shape: (rows, columns), or (rows, columns, channels).
    """

    weight: Any
    shape: tuple[int, ...] = static()

    @classmethod
    def create(cls, shape: tuple[int, ...], weight: Any) -> "NuclearNorm":
        """Check the arguments.

        Raises:
            ValueError: a weight that is not positive, or a signal that is no matrix.
        """
        check_weight(weight)
        if len(shape) not in (2, 3):
            raise ValueError(
                f"shape is {shape}; expected (rows, columns) or (rows, columns, "
                "channels)."
            )
        return cls(weight=weight, shape=shape)

    def energy(self, x: jax.Array) -> jax.Array:
        """Return R(x), ()."""
        matrices = self._matrices(x)
        return self.weight * jnp.sum(jnp.linalg.svd(matrices, compute_uv=False))

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        threshold = step * self.weight

        def shrink(matrix: jax.Array) -> jax.Array:
            return map_singular_values(_soft, matrix, threshold)

        shrunk = jax.vmap(shrink)(self._matrices(x))
        return jnp.moveaxis(shrunk, 0, -1).reshape(self.shape)

    def _matrices(self, x: jax.Array) -> jax.Array:
        """Return the channels, (channels, rows, columns)."""
        return jnp.moveaxis(x.reshape((*self.shape[:2], -1)), -1, 0)


def uniform_threshold(
    s: jax.Array, noise_std: jax.Array, rows: int, columns: int
) -> jax.Array:
    """Shrink by noise_std (sqrt(rows) + sqrt(columns)), the largest that noise has."""
    return _soft(s, noise_std * (math.sqrt(rows) + math.sqrt(columns)))


def weighted_threshold(
    s: jax.Array, noise_std: jax.Array, rows: int, columns: int
) -> jax.Array:
    """Shrink large singular values less, eq (3) with c = 2 sqrt(2) (WNNM, 2014)."""
    clean = safe_sqrt(s**2 - columns * noise_std**2)
    # Without a bound the threshold is infinite where nothing but noise is seen.
    tiny = jnp.finfo(s.dtype).eps
    scale = 2 * math.sqrt(2) * math.sqrt(columns)
    return _soft(s, scale * noise_std**2 / (clean + tiny))


@pytree_dataclass
class NonLocalLowRank(ProximalPrior):
    """Groups of similar patches have low rank: a denoiser, used as a proximal map.

    `prox(x, step)` denoises at the level n = sqrt(weight * step): a heuristic, not the
    proximal map of a known R, because patches overlap and groups depend on x. Groups
    are found anew in every call; no derivative flows through their choice.

    Args:
        weight: variance of the noise for a unit step.
        shape: (height, width, channels).
        patch: side of a patch, 6 to 8 for photographs.
        stride: of the reference patches, 4 to 8.
        search: side of the window of candidates, 30 to 40.
        count: patches of a group, about 60; at most the candidates.
        chunk: groups at the same time.
        shrinkage: `weighted_threshold` or `uniform_threshold`.
    """

    weight: Any
    shape: tuple[int, ...] = static()
    patch: int = static(default=6)
    stride: int = static(default=4)
    search: int = static(default=30)
    count: int = static(default=60)
    chunk: int = static(default=64)
    shrinkage: Shrinkage = static(default=weighted_threshold)

    @classmethod
    def create(
        cls, shape: tuple[int, ...], weight: Any = 1.0, **settings: Any
    ) -> "NonLocalLowRank":
        """Check the arguments; `settings` are the other fields.

        Raises:
            ValueError: a weight that is not positive, no image, patches that do not
                fit, or more patches in a group than there are candidates.
        """
        check_weight(weight)
        check_image(shape)
        made = cls(weight=weight, shape=shape, **settings)
        candidates = made._grid().search ** 2
        if not 1 <= made.count <= candidates:
            raise ValueError(
                f"count is {made.count}; the window holds 1 to {candidates} patches."
            )
        return made

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        grid, patches = self._grid(), all_patches(x, self.patch)
        noise_std = safe_sqrt(self.weight * step)

        def denoised(reference: jax.Array) -> tuple[jax.Array, jax.Array]:
            positions = similar_patches(patches, reference, grid.search, self.count)
            group = patches[positions[:, 0], positions[:, 1]]
            mean = jnp.mean(group, axis=0, keepdims=True)
            matrix = (group - mean).T
            shrunk = map_singular_values(self._rule(matrix), matrix, noise_std)
            return shrunk.T + mean, positions

        references = jnp.asarray(grid.references, jnp.int32)
        groups, positions = jax.lax.map(denoised, references, batch_size=self.chunk)
        flat = groups.reshape(-1, groups.shape[-1])
        return put_back(flat, positions.reshape(-1, 2), self.patch, self.shape)

    def _rule(self, matrix: jax.Array) -> Callable[..., jax.Array]:
        rows, columns = matrix.shape
        return lambda s, noise_std: self.shrinkage(s, noise_std, rows, columns)

    def _grid(self) -> PatchGrid:
        return patch_grid(self.shape, self.patch, self.stride, self.search)


def _soft(s: jax.Array, threshold: jax.typing.ArrayLike) -> jax.Array:
    # At a threshold of 0 the identity, also in its slope at 0.
    return jnp.where(s < threshold, 0, s - threshold)
