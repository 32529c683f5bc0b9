"""A denoiser as a prior with a score: that of slightly noisy signals."""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior, ScorePrior
from diffctl.diffusion.conversions import score_from_x0
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class SmoothedPrior(ScorePrior):
    """The law of x0 + sigma * n, whose score is (D(x; sigma) - x) / sigma^2.

    The noise level should be below that of the details that matter, and above the
    lowest one that the denoiser was trained on. Cost of a score: 1 forward.
    """

    prior: DiffusionPrior
    sigma: Any = 0.1  # () > 0, on the [-1, 1] scale

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.prior.shape

    def score(self, x: jax.Array) -> jax.Array:
        sigma = jnp.asarray(self.sigma, x.dtype)
        return score_from_x0(self.prior.denoise(x, sigma), x, sigma)
